package programs

import (
	"archive/zip"
	"bytes"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/fetch"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/signature/signaturetest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/verify"
)

const examples = "../../../packaging/examples/targets"

// example returns the example's text, with the placeholders for the operator filled in.
func example(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(examples, name+".toml"))
	testkit.Must(t, err)
	return strings.ReplaceAll(string(b), "@USER.", "@alice.")
}

// TestExamplesHaveRows shows that each example is in [All].
func TestExamplesHaveRows(t *testing.T) {
	files, err := filepath.Glob(examples + "/*.toml")
	testkit.Must(t, err)
	var names, rows []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".toml"))
	}
	for _, p := range All {
		rows = append(rows, p.Target)
	}
	if !slices.Equal(names, rows) {
		t.Errorf("examples: %q\nrows:     %q", names, rows)
	}
}

// TestExamples shows that each example accepts a release as its publisher lays it out: the
// fetcher takes the right one of its files, and the verifier unpacks what is installed.
func TestExamples(t *testing.T) {
	for _, p := range All {
		t.Run(p.Target, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, p)
			loaded, err := b.dirs.Load(p.Target)
			testkit.Must(t, err)
			for platform, want := range p.Archives {
				if fits, err := path.Match(loaded.Source.AssetPattern(platform, p.Tag), want); err != nil || !fits {
					t.Errorf("%s: %q is not %q", platform, loaded.Source.AssetPattern(platform, p.Tag), want)
				}
			}
			order := state.Order{Attempt: "20261101t120000-0badcafe", Origin: state.OriginOperator, Verb: state.VerbApply}
			testkit.Must(t, b.tree.SetOrder(p.Target, order))
			a, _, err := fetch.Run(t.Context(), b.tree, b.dirs, p.Target, func(int64, int64) {})
			if err != nil || a.Result != state.ResultHandedOn || a.Version != p.Tag {
				t.Fatalf("fetched: %v\n%+v", err, a)
			}
			if a, _, err = verify.Run(b.tree, b.dirs, p.Target); err != nil || a.Result != state.ResultHandedOn {
				t.Fatalf("verified: %v\n%+v", err, a)
			}
			_, tree, err := b.tree.Claim(state.RoleVerify, p.Target)
			testkit.Must(t, err)
			if loaded.Install[0].Tree { // its files have numbers in the order of the archive
				for n, entry := range p.Entries {
					if got, err := tree.Root.ReadFile(strconv.Itoa(n)); err != nil || !bytes.HasSuffix(got, []byte(entry)) {
						t.Errorf("installed %d: %v, %d bytes, not those of %s", n, err, len(got), entry)
					}
				}
			}
			for n := range b.installed {
				got, err := tree.Root.ReadFile(string(rune('0' + n)))
				if err != nil || !bytes.Equal(got, b.installed[n]) {
					t.Errorf("installed %d: %v, %d bytes", n, err, len(got))
				}
			}
		})
	}
}

// bench is a machine with an example, and the publisher's server.
type bench struct {
	dirs      target.Dirs
	tree      state.Tree
	installed [][]byte // what each [[install]] must bring
}

func newBench(t *testing.T, p Program) *bench {
	t.Helper()
	b := &bench{dirs: target.DefaultDirs}
	b.dirs.Root = t.TempDir()
	v, run := testkit.Tree(t)
	b.tree = state.Tree{Var: v, Run: run}
	admin := b.dirs.Root + b.dirs.Admin + "/" + p.Target + ".toml"
	testkit.Put(t, admin, example(t, p.Target))
	for _, dir := range []string{b.tree.Dir(state.RoleFetch, p.Target), b.tree.Dir(state.RoleVerify, p.Target)} {
		testkit.Must(t, os.MkdirAll(dir, 0o755))
	}
	loaded, err := b.dirs.Load(p.Target)
	testkit.Must(t, err)

	release := releases.Tagged{Tag: p.Tag, Assets: []releases.Asset{releases.Digested(p.Archives[manifest.Host()], b.archive(t, p))}}
	for _, name := range p.Files {
		release.Assets = append(release.Assets, releases.Digested(name, []byte("another file\n")))
	}
	for platform, name := range p.Archives {
		if platform != manifest.Host() {
			release.Assets = append(release.Assets, releases.Digested(name, []byte("for another machine\n")))
		}
	}
	if p.Sums != "" {
		b.elsewhere(t, p, loaded, release.Assets[0].Content)
		return b
	}
	server := &releases.GitHub{Repo: loaded.Source.Repo}
	server.Publish(release)
	s := httptest.NewServer(server)
	t.Cleanup(s.Close)
	testkit.Put(t, admin+".d/server.toml", "[source]\napi_url = \""+s.URL+"\"\n")
	return b
}

// elsewhere serves the archive and its checksum file from a server of the publisher's own,
// at the paths of the example's addresses; the releases have the tag alone.
func (b *bench) elsewhere(t *testing.T, p Program, loaded *target.Target, archive []byte) {
	t.Helper()
	name := p.Archives[manifest.Host()]
	fill := strings.NewReplacer("ARCHIVE", name, "DIGEST", manifest.Digest(archive))
	sums, sumsName := []byte(fill.Replace(p.Sums)), fill.Replace(p.SumsName)
	asset, err := url.Parse(loaded.Source.AssetURL(manifest.Host(), p.Tag))
	testkit.Must(t, err)
	at := path.Dir(asset.Path) + "/" + sumsName
	if s := loaded.Source.ChecksumsURL(manifest.Host(), p.Tag); s != "" {
		u, err := url.Parse(s)
		testkit.Must(t, err)
		at = u.Path
	}
	if path.Base(at) != sumsName || path.Base(asset.Path) != name {
		t.Fatalf("%s and %s, not %s and %s", at, asset.Path, sumsName, name)
	}
	files := map[string][]byte{asset.Path: archive, at: sums}
	if p.Signed {
		key := signaturetest.NewOpenPGP(t, time.Now().Add(-time.Hour), 0)
		files[at+".sig"] = key.SignBinary(sums)
		testkit.Put(t, b.dirs.Root+loaded.Trust.Key, string(key.Public()))
	}
	store := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	t.Cleanup(store.Close)
	ca := b.dirs.Root + "/ca.pem"
	testkit.Put(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: store.Certificate().Raw})))
	var hub http.Handler
	api := ""
	release := releases.Tagged{Tag: p.Tag}
	if loaded.Source.Type == target.SourceGitHub {
		server := &releases.GitHub{Repo: loaded.Source.Repo}
		server.Publish(release)
		hub = server
	} else {
		server := &releases.Forge{Repo: loaded.Source.Repo, GitLab: loaded.Source.Type == target.SourceGitLab}
		server.Publish(release)
		hub, api = server, server.API()
	}
	s := httptest.NewServer(hub)
	t.Cleanup(s.Close)
	toStore := func(address string) string {
		u, err := url.Parse(address)
		testkit.Must(t, err)
		return strings.Replace(address, "https://"+u.Host, store.URL, 1)
	}
	text := fmt.Sprintf("[source]\napi_url = %q\nca_file = %q\nasset = %q\n", s.URL+api, ca, toStore(loaded.Source.Asset))
	if loaded.Source.Checksums != "" {
		text += fmt.Sprintf("checksums = %q\n", toStore(loaded.Source.Checksums))
	}
	testkit.Put(t, b.dirs.Root+b.dirs.Admin+"/"+p.Target+".toml.d/server.toml", text)
}

// archive makes the release's archive for this machine. What is installed from it begins
// as a program of this machine.
func (b *bench) archive(t *testing.T, p Program) []byte {
	t.Helper()
	loaded, err := b.dirs.Load(p.Target)
	testkit.Must(t, err)
	head := beginning(t)
	if len(p.Entries) == 0 && p.Sums != "" {
		b.installed = [][]byte{head}
		return head
	}
	if strings.HasSuffix(p.Archives[manifest.Host()], ".zip") {
		var packed bytes.Buffer
		z := zip.NewWriter(&packed)
		for n, entry := range p.Entries {
			content := append(slices.Clone(head), entry...)
			if n < len(loaded.Install) {
				b.installed = append(b.installed, content)
			}
			w, err := z.Create(entry)
			testkit.Must(t, err)
			_, err = w.Write(content)
			testkit.Must(t, err)
		}
		testkit.Must(t, z.Close())
		return packed.Bytes()
	}
	if len(p.Entries) == 0 {
		b.installed = [][]byte{head}
		xz := exec.Command("xz", "--stdout")
		xz.Stdin = bytes.NewReader(head)
		packed, err := xz.Output()
		testkit.Must(t, err)
		return packed
	}
	var files []releases.File
	for n, entry := range p.Entries {
		entry = strings.ReplaceAll(entry, "linux-amd64", manifest.Host())
		content := append(slices.Clone(head), entry...)
		if n < len(loaded.Install) && !loaded.Install[n].Tree {
			b.installed = append(b.installed, content)
		}
		files = append(files, releases.File{Name: entry, Content: content})
	}
	packed := filepath.Join(t.TempDir(), "release.tar.gz")
	testkit.Must(t, releases.Pack(packed, files...))
	content, err := os.ReadFile(packed)
	testkit.Must(t, err)
	return content
}

// beginning returns the first bytes of a program for this machine.
func beginning(t *testing.T) []byte {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	testkit.Must(t, err)
	defer self.Close()
	head := make([]byte, 64)
	_, err = self.ReadAt(head, 0)
	testkit.Must(t, err)
	return head
}

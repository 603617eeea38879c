package verify

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

const attempt = "20261101t120000-0badcafe"

// files maps the names in an archive to contents.
type files map[string]string

func pack(t *testing.T, content files) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, body := range content {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o6755, Uid: 4711, Size: int64(len(body)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// program1 returns the beginning of a program for this machine.
func program1(t *testing.T) string {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	head := make([]byte, 64)
	if _, err := self.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	return string(head) + "and so on"
}

// foreign returns a program for a machine on which the tests never run.
func foreign(t *testing.T) string {
	b := []byte(program1(t))
	binary.LittleEndian.PutUint16(b[18:], uint16(elf.EM_SPARC))
	return string(b)
}

// bundle is what the fetcher hands on.
type bundle struct {
	attempt  string // of the entry
	receipt  string
	manifest *manifest.Manifest
	raw      []byte // replaces manifest if not nil
	payload  []byte
	deltas   [][]byte // used if payload is nil
	content  files    // the source of payload and of the manifest's contents
}

func (b *bundle) platform(f func(p *manifest.Platform)) {
	p := b.manifest.Platforms[manifest.Host()]
	f(&p)
	b.manifest.Platforms[manifest.Host()] = p
}

// repack updates payload and manifest from content.
func (b *bundle) repack(t *testing.T) {
	b.payload = pack(t, b.content)
	contents := map[string]manifest.Content{}
	var unpacked int64
	for name, body := range b.content {
		contents[name] = manifest.Content{SHA256: manifest.Digest([]byte(body)), Size: int64(len(body))}
		unpacked += int64(len(body))
	}
	b.platform(func(p *manifest.Platform) {
		*p = manifest.Platform{File: "agent.tar.gz", SHA256: manifest.Digest(b.payload), Size: int64(len(b.payload)),
			UnpackedSize: unpacked, Contents: contents}
	})
}

// bench is a machine with one target, which installs a program and a unit.
type bench struct {
	tree   state.Tree
	root   string
	target *target.Target
	bundle *bundle
	asked  *state.Fallback // of the last run
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := benchAt(t.TempDir())
	for _, dir := range []string{b.tree.Dir(state.RoleFetch, "agent"), b.tree.Dir(state.RoleVerify, "agent"), filepath.Join(b.tree.Run, "attempt")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.bundle = &bundle{attempt: attempt, receipt: `{"attempt":"` + attempt + `","platform":"plan9-mips"}`,
		manifest: &manifest.Manifest{Schema: 1, Product: "agent", Version: "v2", Sequence: 7, Platforms: map[string]manifest.Platform{}},
		content:  files{"agent-v2": program1(t), "agent.service": "[Unit]\n", "README": "not wanted\n"}}
	b.bundle.repack(t)
	return b
}

// benchAt returns the machine below root, with an empty spool or the one that it has.
func benchAt(root string) *bench {
	return &bench{root: root, tree: state.Tree{Var: filepath.Join(root, "var"), Run: filepath.Join(root, "run")},
		target: &target.Target{Name: "agent", Trust: target.Trust{Mode: target.TrustChecksum, Product: "agent"},
			Install: []target.Install{
				{From: "agent-{version}", To: filepath.Join(root, "agent")},
				{From: "agent.service", To: filepath.Join(root, "agent.service")},
				{From: "extra", To: filepath.Join(root, "extra"), Optional: true},
			}}}
}

// dirs returns directories without a target file.
func (b *bench) dirs() target.Dirs {
	return target.Dirs{Root: b.root, Vendor: "/vendor", Admin: "/admin"}
}

func (b *bench) in() string  { return b.tree.Ready(state.RoleFetch, "agent") }
func (b *bench) out() string { return b.tree.Ready(state.RoleVerify, "agent") }

// entry returns the bundle's directory.
func (b *bench) entry() string { return filepath.Join(b.in(), b.bundle.attempt) }

// hand writes the bundle into the fetcher's spool.
func (b *bench) hand(t *testing.T) {
	t.Helper()
	if b.bundle.raw == nil {
		raw, err := b.bundle.manifest.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		b.bundle.raw = raw
	}
	if err := os.MkdirAll(b.entry(), 0o770); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"manifest.json": b.bundle.raw, "receipt.json": []byte(b.bundle.receipt)}
	if b.bundle.payload != nil {
		files["payload"] = b.bundle.payload
	}
	for n, d := range b.bundle.deltas {
		files[strconv.Itoa(n)] = d
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(b.entry(), name), data, 0o640); err != nil {
			t.Fatal(err)
		}
	}
}

func (b *bench) run(t *testing.T) state.Attempt {
	t.Helper()
	var a state.Attempt
	var err error
	a, b.asked, err = run(b.tree, "agent", func() (*target.Target, error) { return b.target, nil })
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// mustRecord checks the record, that the input is consumed, and that only the spool and
// the status are left.
func (b *bench) mustRecord(t *testing.T, a state.Attempt, result state.Result, text string) {
	t.Helper()
	if a.ID != attempt || a.Stage != "verify" || a.Result != result || !strings.Contains(a.Reason, text) {
		t.Errorf("%+v\nwant %s: …%s…", a, result, text)
	}
	if strings.ContainsAny(a.Reason, "\n\x1b") || strings.Count(a.Reason, "cannot ") > 1 || a.Reason != "" && !strings.HasPrefix(a.Reason, "cannot ") {
		t.Errorf("not one clear line: %q", a.Reason)
	}
	s, err := b.tree.Status(state.RoleVerify, "agent")
	if err != nil || len(s.Attempts) != 1 || !reflect.DeepEqual(s.Attempts[0], a) {
		t.Errorf("recorded %+v, %v", s.Attempts, err)
	}
	if left := ls(t, b.in()); len(left) != 0 {
		t.Errorf("not consumed: %v", left)
	}
	if left := ls(t, b.tree.Dir(state.RoleVerify, "agent")); len(left) > 2 {
		t.Errorf("left: %v", left)
	}
	if result != state.ResultHandedOn {
		if left := ls(t, b.out()); len(left) != 0 {
			t.Errorf("handed on all the same: %v", left)
		}
	}
}

func TestHandedOn(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // as in the unit
	b := newBench(t)
	sum := sha512.Sum512(b.bundle.payload)
	b.bundle.platform(func(p *manifest.Platform) { p.SHA512 = hex.EncodeToString(sum[:]) })
	if err := b.tree.SetOrder("agent", state.Order{Attempt: attempt, Origin: state.OriginOperator, Installed: "v1"}); err != nil {
		t.Fatal(err)
	}
	b.hand(t)
	a := b.run(t)
	b.mustRecord(t, a, state.ResultHandedOn, "")
	if a.Origin != state.OriginOperator || a.From != "v1" || a.Version != "v2" || a.Sequence != 7 {
		t.Errorf("%+v", a)
	}
	if got := ls(t, b.out()); !slices.Equal(got, []string{".next.link", attempt}) {
		t.Fatalf("in the spool: %v", got)
	}
	entry, err := os.OpenRoot(filepath.Join(b.out(), attempt))
	if err != nil {
		t.Fatal(err)
	}
	defer entry.Close()
	if got := ls(t, entry.Name()); !slices.Equal(got, []string{"0", "1", "manifest.json", "receipt.json"}) {
		t.Errorf("in the entry: %v", got)
	}
	receipt, err := (&state.Bundle{Root: entry}).Receipt()
	if err != nil || receipt.Attempt != attempt || receipt.Platform != manifest.Host() {
		t.Errorf("%+v, %v", receipt, err)
	}
	var entries []string // in the archive's order, which is random
	for _, f := range receipt.Files {
		entries = append(entries, f.Entry)
	}
	slices.Sort(entries)
	if !slices.Equal(entries, []string{"agent-v2", "agent.service"}) {
		t.Errorf("%+v", receipt.Files)
	}
	for _, f := range receipt.Files {
		got, err := entry.ReadFile(f.Name)
		if err != nil || string(got) != b.bundle.content[f.Entry] {
			t.Errorf("%s: %q, %v", f.Entry, got, err)
		}
		if info, err := entry.Stat(f.Name); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", f.Entry, info.Mode(), err)
		}
	}
	if got, err := entry.ReadFile("manifest.json"); err != nil || !bytes.Equal(got, b.bundle.raw) {
		t.Errorf("manifest: %q, %v", got, err)
	}
}

func TestEmptySpool(t *testing.T) {
	b := newBench(t)
	for range 2 { // first without the directory, then with it
		if a := b.run(t); a.ID != "" {
			t.Errorf("%+v", a)
		}
		if err := os.MkdirAll(b.in(), 0o770); err != nil {
			t.Fatal(err)
		}
	}
	if left := ls(t, b.tree.Dir(state.RoleVerify, "agent")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestMisconfigured(t *testing.T) {
	b := newBench(t)
	b.hand(t)
	a, _, err := Run(b.tree, b.dirs(), "agent")
	if err != nil {
		t.Fatal(err)
	}
	b.mustRecord(t, a, state.ResultMisconfigured, "cannot use target agent")
}

// TestNextRun checks that a refusal does not block the next run.
func TestNextRun(t *testing.T) {
	b := newBench(t)
	b.hand(t)
	if err := os.Truncate(filepath.Join(b.entry(), "payload"), 10); err != nil {
		t.Fatal(err)
	}
	b.mustRecord(t, b.run(t), state.ResultRefused, "it has 10 bytes")
	b.hand(t)
	killed := filepath.Join(b.tree.Dir(state.RoleVerify, "agent"), state.TempPayload+"1")
	if err := os.WriteFile(killed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.mustRecord(t, b.run(t), state.ResultHandedOn, "")
	if _, err := os.Lstat(killed); !os.IsNotExist(err) {
		t.Errorf("what a killed verifier left is there still: %v", err)
	}
}

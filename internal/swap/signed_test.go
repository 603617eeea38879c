package swap

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/signature"
	"github.com/machinemon/machinemon-update/internal/signature/signaturetest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// publisher signs the releases of a rig's target, whose source is on GitHub.
type publisher struct {
	*rig
	mini *signaturetest.Minisign
}

func newPublisher(t *testing.T, more string) publisher {
	t.Helper()
	r := newRig(t)
	p := publisher{r, signaturetest.NewMinisign(t)}
	r.configure(t, "[trust]\nmode = 'signature'\n"+more)
	r.edit(t, "type = \"file\"\npath = "+fmt.Sprintf("%q", r.at("releases")), "type = \"github\"\nrepo = \"a/b\"\nasset = \"agent-{version}.tar.gz\"")
	must(t, os.MkdirAll(r.at("trust"), 0o755))
	must(t, os.WriteFile(r.at("trust/agent.key"), p.mini.Public(), 0o644))
	return p
}

// offering is what the verifier hands on, and may have changed.
type offering struct {
	manifest *manifest.Manifest
	evidence signature.Evidence
	archive  []byte            // nil for none
	tree     map[string]string // the files
	listing  string            // what the sandbox prints
}

// offer offers a signed release, after change has damaged it. The archive is a text that
// the sandbox's program would list as the files.
func (p publisher) offer(t *testing.T, attempt state.AttemptID, version string, files map[string]string, change func(o *offering)) {
	t.Helper()
	archive := []byte("archive of " + version)
	file := "agent-" + version + ".tar.gz"
	contents := map[string]manifest.Content{}
	for name, content := range files {
		contents[name] = manifest.Content{SHA256: sum(content), Size: int64(len(content))}
	}
	listing, err := json.Marshal(map[string]any{"contents": contents})
	must(t, err)
	listed := []byte(manifest.Digest(archive) + "  " + file + "\n")
	o := &offering{
		manifest: &manifest.Manifest{Schema: 1, Version: version, Platforms: map[string]manifest.Platform{
			manifest.Host(): {File: file, SHA256: manifest.Digest(archive), Size: int64(len(archive))}}},
		evidence: signature.Evidence{Of: signature.OfChecksums, File: "SHA256SUMS", Content: listed, Signature: p.mini.Sign(listed, "")},
		archive:  archive, tree: maps.Clone(files), listing: string(listing),
	}
	if change != nil {
		change(o)
	}
	must(t, p.tree.SetOrder("agent", state.Order{Attempt: attempt, Origin: state.OriginOperator, Verb: state.VerbApply, Installed: p.status(t).Installed.Version}))
	must(t, look(p.tree, state.Baseline{Attempt: attempt, Standing: true}))
	p.sys.tried = systemd.SandboxResult{Output: o.listing}
	must(t, p.tree.HandOn(state.RoleVerify, "agent", attempt, func(b *state.Bundle) error {
		receipt := state.Receipt{Attempt: attempt, Platform: manifest.Host()}
		for i, name := range slices.Sorted(maps.Keys(o.tree)) {
			must(t, b.WriteFile(fmt.Sprint(i), []byte(o.tree[name]), 0o640))
			receipt.Files = append(receipt.Files, state.ReceiptFile{Entry: name, Name: fmt.Sprint(i)})
		}
		if o.archive != nil {
			must(t, b.WriteFile(state.PayloadName, o.archive, 0o640))
		}
		raw, err := o.manifest.Marshal()
		must(t, err)
		must(t, p.tree.SetHandover("agent", state.Handover{Attempt: attempt, Manifest: manifest.Digest(raw)}))
		evidence, err := o.evidence.Encode()
		must(t, err)
		return b.Describe(raw, evidence, receipt)
	}))
}

// TestSignedArchive shows that root installs only what is in the archive that the publisher
// has signed, whatever the verifier hands on.
func TestSignedArchive(t *testing.T) {
	testkit.Slow(t)
	stranger := signaturetest.NewMinisign(t)
	other := []byte("another archive")
	for _, c := range []struct {
		name   string
		change func(p publisher, o *offering)
		result state.Result // "": installed
		words  string
	}{
		{name: "good", change: func(publisher, *offering) {}},
		{name: "the archive is signed", change: func(p publisher, o *offering) {
			o.evidence = signature.Evidence{Of: signature.OfArchive, File: "agent-v2.tar.gz", Signature: p.mini.Sign(o.archive, "agent-v2.tar.gz")}
		}},
		{name: "another file in the tree", change: func(_ publisher, o *offering) { o.tree["agent"] = "agent 6" },
			result: state.ResultRefused, words: "cannot install agent: its sha256 is " + sum("agent 6") + ", the manifest says " + sum("agent 2")},
		{name: "a file more than the archive", change: func(_ publisher, o *offering) {
			o.listing = strings.Replace(o.listing, `"extra"`, `"other"`, 1)
		}, result: state.ResultRefused, words: "cannot install extra: the manifest's contents do not list it"},
		{name: "another archive", change: func(_ publisher, o *offering) { o.archive = other },
			result: state.ResultRefused, words: "cannot use agent-v2.tar.gz: its sha256 is "},
		{name: "another archive and its digest", change: func(_ publisher, o *offering) {
			o.archive = other
			o.manifest.Platforms[manifest.Host()] = manifest.Platform{File: "agent-v2.tar.gz", SHA256: manifest.Digest(other), Size: int64(len(other))}
		}, result: state.ResultRefused, words: "cannot verify SHA256SUMS of what the verifier handed on: it says that agent-v2.tar.gz has sha256 "},
		{name: "another archive, the archive is signed", change: func(p publisher, o *offering) {
			o.evidence = signature.Evidence{Of: signature.OfArchive, File: "agent-v2.tar.gz", Signature: p.mini.Sign(o.archive, "agent-v2.tar.gz")}
			o.archive = other
			o.manifest.Platforms[manifest.Host()] = manifest.Platform{File: "agent-v2.tar.gz", SHA256: manifest.Digest(other), Size: int64(len(other))}
		}, result: state.ResultRefused, words: "is not valid: file or signature were changed"},
		{name: "no archive", change: func(_ publisher, o *offering) { o.archive = nil },
			result: state.ResultRefused, words: "cannot read payload"},
		{name: "a stranger's signature", change: func(_ publisher, o *offering) { o.evidence.Signature = stranger.Sign(o.evidence.Content, "") },
			result: state.ResultRefused, words: "which is not pinned"},
		{name: "an older release", change: func(p publisher, o *offering) {
			o.manifest.Version = "v0.9"
			p9 := o.manifest.Platforms[manifest.Host()]
			p9.File = "agent-v0.9.tar.gz"
			o.manifest.Platforms[manifest.Host()] = p9
			o.evidence.Content = []byte(p9.SHA256 + "  agent-v0.9.tar.gz\n")
			o.evidence.Signature = p.mini.Sign(o.evidence.Content, "")
		}, result: state.ResultNotAttempted, words: "v0.9 is lower than the installed v1, and its signature does not forbid to bring back an old release (hint: source.downgrade = true"},
		{name: "a damaged list", change: func(_ publisher, o *offering) { o.listing = "{" }, result: state.ResultFailed, words: "its list is damaged"},
		{name: "no archive at all", change: func(_ publisher, o *offering) { o.listing = `{"error":"it is neither\nan archive"}` },
			result: state.ResultRefused, words: "cannot list agent-v2.tar.gz: it is neither"},
		{name: "an archive without a name", change: func(p publisher, o *offering) {
			o.evidence = signature.Evidence{Of: signature.OfArchive, File: "agent-v2.tar.gz", Signature: p.mini.Sign(o.archive, "")}
		}, result: state.ResultRefused, words: "does not say which version it is of"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPublisher(t, "")
			p.offer(t, "a1", "v2", release2, func(o *offering) { c.change(p, o) })
			if c.result == "" {
				p.step(t, "swap")
				p.want(t, newFiles)
				if got := p.sys.trial; got.User != "mm-gate-agent" || got.Input == "" || got.Argv[1] != "--list" || len(got.Over) != 0 {
					t.Errorf("listed in %+v", got)
				}
				if j, err := p.tree.Journal("agent"); err != nil || j.Unsigned {
					t.Errorf("%+v, %v", j, err)
				}
			} else {
				p.fails(t, "swap", c.result, c.words)
				p.ended(t, "a1", c.result, c.words)
				p.untouched(t)
			}
			left, err := os.ReadDir(p.tree.Dir(state.RoleSwap, "agent"))
			must(t, err)
			for _, e := range left {
				if strings.HasPrefix(e.Name(), state.TempPayload) {
					t.Errorf("%s is left", e.Name())
				}
			}
		})
	}
}

// TestSignedVersion shows that the program itself must say its version if nothing else
// that is signed does, even if it is installed already.
func TestSignedVersion(t *testing.T) {
	for _, c := range []struct {
		name, said string
		files      map[string]string
		words      string // "": installed
	}{
		{"the version", "agent v2", release2, ""},
		{"an older version", "agent v1.9", release2, "the new program says v1.9 instead of v2"},
		{"what is installed, as a new version", "agent v1", release1, "the new program says v1 instead of v2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPublisher(t, "")
			p.put(t, "bin/agent", file{"agent 1", 0o755, 12})
			p.edit(t, "settle_seconds = 5", fmt.Sprintf("settle_seconds = 5\nversion_command = [%q, '--version']", p.at("bin/agent")))
			p.offer(t, "a1", "v2", c.files, func(o *offering) {
				o.evidence = signature.Evidence{Of: signature.OfArchive, File: "agent-v2.tar.gz", Signature: p.mini.Sign(o.archive, "")}
			})
			p.sys.said = c.said
			if c.words == "" {
				p.step(t, "swap")
				return
			}
			p.fails(t, "swap", state.ResultRefused, c.words)
			p.ended(t, "a1", state.ResultRefused, c.words)
			if v := p.status(t).Installed.Version; v != "v1" {
				t.Errorf("installed is %s", v)
			}
		})
	}
}

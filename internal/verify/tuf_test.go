package verify

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/trust"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

// signed returns a bench whose target requires signed releases, with a repository that has
// published nothing of use yet.
func signed(t *testing.T) (*bench, *trusttest.Repo) {
	t.Helper()
	b := newBench(t)
	must(t, os.MkdirAll(b.tree.Dir(state.RoleSwap, "agent"), 0o755))
	must(t, os.MkdirAll(filepath.Join(b.root, "admin"), 0o755))
	must(t, os.MkdirAll(filepath.Join(b.root, "trust"), 0o755))
	must(t, os.WriteFile(filepath.Join(b.root, "admin/agent.toml"), []byte(`unit = "agent.service"
trust = { mode = "tuf", product = "agent" }
install = [{ from = "agent", to = "/usr/local/bin/agent" }]
`), 0o644))
	loaded, err := b.dirs().Load("agent")
	must(t, err)
	loaded.Install = b.target.Install
	b.target = loaded
	repo := trusttest.New(t, &manifest.Manifest{Schema: 1, Product: "agent", Version: "v1", Sequence: 1,
		Platforms: map[string]manifest.Platform{manifest.Host(): {File: "a.tar.gz", SHA256: manifest.Digest(nil), Size: 1}}})
	b.pin(t, repo)
	return b, repo
}

func (b *bench) pin(t *testing.T, repo *trusttest.Repo) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(b.root, "trust/agent.root.json"), repo.Pin, 0o644))
}

// handSigned publishes the bench's manifest and writes the bundle.
func (b *bench) handSigned(t *testing.T, repo *trusttest.Repo) {
	t.Helper()
	repo.Publish(b.bundle.manifest)
	b.bundle.raw = nil
	b.hand(t)
	b.metadata(t, repo.Bundle(1))
}

func (b *bench) metadata(t *testing.T, of trust.Metadata) {
	t.Helper()
	raw, err := of.Encode()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(b.entry(), state.MetadataName), raw, 0o640))
}

func (b *bench) rootKnows(t *testing.T, repo *trusttest.Repo) {
	t.Helper()
	_, known, err := trust.Client{Pin: repo.Pin, Clock: time.Now()}.Check(repo.Bundle(1))
	must(t, err)
	must(t, b.tree.SetTrust(state.RoleSwap, "agent", known))
}

// TestSigned checks that the metadata is handed on, and that this role stores none.
func TestSigned(t *testing.T) {
	b, repo := signed(t)
	repo.Rotate()
	b.rootKnows(t, repo)
	b.handSigned(t, repo)
	b.metadata(t, repo.Bundle(2)) // root knows the other roots
	b.mustRecord(t, b.run(t), state.ResultHandedOn, "")
	entry := filepath.Join(b.out(), attempt)
	if got := ls(t, entry); !slices.Equal(got, []string{"0", "1", "manifest.json", "metadata.json", "receipt.json"}) {
		t.Errorf("in the entry: %v", got)
	}
	want, err := repo.Bundle(2).Encode()
	must(t, err)
	if got, err := os.ReadFile(filepath.Join(entry, "metadata.json")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v: %s", err, got)
	}
}

// TestSignedRefused checks that a malicious fetcher's bundles are not handed on.
func TestSignedRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(t *testing.T, b *bench, repo *trusttest.Repo)
		alter  func(t *testing.T, b *bench, repo *trusttest.Repo) // changes the written bundle
		result state.Result
		text   string
	}{
		{name: "no contents", before: func(_ *testing.T, b *bench, _ *trusttest.Repo) {
			b.bundle.platform(func(p *manifest.Platform) { p.Contents = nil })
		}, text: "it does not say what is in agent.tar.gz"},
		{name: "not in the contents", before: func(_ *testing.T, b *bench, _ *trusttest.Repo) {
			b.bundle.platform(func(p *manifest.Platform) { delete(p.Contents, "agent.service") })
		}, text: "the manifest's contents do not list its entry agent.service"},
		{name: "archive A under B's name", alter: func(t *testing.T, b *bench, _ *trusttest.Repo) {
			b.bundle.payload[20] ^= 1
			must(t, os.WriteFile(filepath.Join(b.entry(), "payload"), b.bundle.payload, 0o640))
		}, text: "agent.tar.gz: its sha256 is"},
		{name: "receipt altered", alter: func(t *testing.T, b *bench, _ *trusttest.Repo) {
			must(t, os.WriteFile(filepath.Join(b.entry(), "receipt.json"), []byte(`{"attempt":"b"}`), 0o640))
		}, text: "its receipt is of another attempt"},
		{name: "a checksum bundle", alter: func(t *testing.T, b *bench, _ *trusttest.Repo) {
			must(t, os.Remove(filepath.Join(b.entry(), state.MetadataName)))
		}, text: "cannot read metadata.json: no such file or directory"},
		{name: "huge metadata", alter: func(t *testing.T, b *bench, _ *trusttest.Repo) {
			must(t, os.Truncate(filepath.Join(b.entry(), state.MetadataName), trust.MaxMetadata+1))
		}, text: "it is larger than 16777216 bytes"},
		{name: "no root", before: func(t *testing.T, b *bench, _ *trusttest.Repo) {
			must(t, os.Remove(filepath.Join(b.root, "trust/agent.root.json")))
		}, text: "there is no /trust/agent.root.json (hint: sudo machinemon-update trust agent FILE --sha256 HEX)"},
		{name: "a new pin", before: func(t *testing.T, b *bench, repo *trusttest.Repo) {
			b.rootKnows(t, repo)
			b.pin(t, trusttest.NewOf(t, "another", time.Now(), b.bundle.manifest))
		}, text: "timestamp v2: too few valid signatures"},
		{name: "expired", before: func(_ *testing.T, _ *bench, repo *trusttest.Repo) { repo.Expire(-time.Hour) }, text: "timestamp v2: expired on "},
		{name: "what root knows is lost", before: func(t *testing.T, b *bench, repo *trusttest.Repo) {
			must(t, os.RemoveAll(b.tree.Dir(state.RoleSwap, "agent")))
		}, result: state.ResultHandedOn},
		{name: "withdrawn", before: func(t *testing.T, b *bench, repo *trusttest.Repo) {
			must(t, b.tree.RaiseFloor("agent", 6)) // the bundle has older bytes with sequence 7
		}, result: state.ResultHandedOn},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, repo := signed(t)
			if c.before != nil {
				c.before(t, b, repo)
			}
			b.handSigned(t, repo)
			if c.alter != nil {
				c.alter(t, b, repo)
			}
			if c.result == "" {
				c.result = state.ResultRefused
			}
			a := b.run(t)
			if a.Expired != (c.name == "expired") {
				t.Errorf("%+v", a)
			}
			b.mustRecord(t, a, c.result, c.text)
		})
	}
}

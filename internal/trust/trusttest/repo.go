// Package trusttest makes signed repositories for the tests of those who verify
// them: of any content, also what no publisher would sign.
package trusttest

import (
	"crypto"
	"crypto/ed25519"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/trust"
)

const day = 24 * time.Hour

// Repo is a repository. Its methods write Files, by name.
type Repo struct {
	Files  map[string][]byte
	Pin    []byte        // 1.root.json
	Expiry time.Duration // from now, of timestamp and snapshot

	t       testing.TB
	root    *metadata.Metadata[metadata.RootType]
	keys    map[string]signature.Signer // by the role that they sign; "root" signs roots
	online  int64                       // version of timestamp and snapshot
	targets int64
}

// New makes a repository that has published the manifest.
func New(t testing.TB, m *manifest.Manifest) *Repo {
	t.Helper()
	r := &Repo{t: t, Files: map[string][]byte{}, Expiry: 7 * day, keys: map[string]signature.Signer{}, root: metadata.Root(time.Now().Add(365 * day))}
	for _, role := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		r.newKey(role)
	}
	r.sign(r.root, "1.root.json", metadata.ROOT)
	r.Pin = r.Files["1.root.json"]
	r.Publish(m)
	return r
}

func (r *Repo) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// newKey gives a role another key.
func (r *Repo) newKey(role string) {
	r.t.Helper()
	if old := r.keys[role]; old != nil {
		id, err := public(old).ID()
		r.must(err)
		r.must(r.root.Signed.RevokeKey(id, role))
	}
	_, private, err := ed25519.GenerateKey(nil)
	r.must(err)
	r.keys[role], err = signature.LoadSigner(private, crypto.Hash(0))
	r.must(err)
	r.must(r.root.Signed.AddKey(public(r.keys[role]), role))
}

func public(s signature.Signer) *metadata.Key {
	p, err := s.PublicKey()
	if err != nil {
		panic(err)
	}
	k, err := metadata.KeyFromPublicKey(p)
	if err != nil {
		panic(err)
	}
	return k
}

type signable interface {
	Sign(signature.Signer) (*metadata.Signature, error)
	ToBytes(bool) ([]byte, error)
	ClearSignatures()
}

func (r *Repo) sign(m signable, file, role string) {
	r.t.Helper()
	m.ClearSignatures()
	_, err := m.Sign(r.keys[role])
	r.must(err)
	r.Files[file], err = m.ToBytes(false)
	r.must(err)
}

// Rotate publishes a root with other keys for timestamp and snapshot, and signs
// those anew.
func (r *Repo) Rotate() {
	r.t.Helper()
	r.newKey(metadata.SNAPSHOT)
	r.newKey(metadata.TIMESTAMP)
	r.root.Signed.Version++
	r.sign(r.root, fmt.Sprintf("%d.root.json", r.root.Signed.Version), metadata.ROOT)
	r.Refresh()
}

// Publish signs a manifest.
func (r *Repo) Publish(m *manifest.Manifest) {
	r.t.Helper()
	raw, err := m.Marshal()
	r.must(err)
	file, err := metadata.TargetFile().FromBytes(manifest.FileName, raw)
	r.must(err)
	r.targets++
	targets := metadata.Targets(time.Now().Add(45 * day))
	targets.Signed.Version = r.targets
	targets.Signed.Targets[manifest.FileName] = file
	r.sign(targets, fmt.Sprintf("%d.targets.json", r.targets), metadata.TARGETS)
	r.Files[manifest.Digest(raw)+"."+manifest.FileName] = raw
	r.Files[manifest.FileName] = raw
	r.Refresh()
}

// Refresh signs snapshot and timestamp anew.
func (r *Repo) Refresh() {
	r.t.Helper()
	r.online++
	snapshot := metadata.Snapshot(time.Now().Add(r.Expiry))
	snapshot.Signed.Version = r.online
	snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(r.targets)
	r.sign(snapshot, fmt.Sprintf("%d.snapshot.json", r.online), metadata.SNAPSHOT)
	timestamp := metadata.Timestamp(time.Now().Add(r.Expiry))
	timestamp.Signed.Version = r.online
	timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(r.online)
	r.sign(timestamp, trust.TimestampFile, metadata.TIMESTAMP)
}

// Kept are the files as they are, for a mirror that stands still.
func (r *Repo) Kept() map[string][]byte { return maps.Clone(r.Files) }

// Bundle is what a client gets that knows this many roots.
func (r *Repo) Bundle(known int64) trust.Bundle {
	r.t.Helper()
	var b trust.Bundle
	for v := known + 1; v <= r.root.Signed.Version; v++ {
		b.Roots = append(b.Roots, r.Files[fmt.Sprintf("%d.root.json", v)])
	}
	next := func(role trust.Role, of []byte) []byte {
		name, _, err := trust.Next(role, of)
		r.must(err)
		return r.Files[name]
	}
	b.Timestamp = r.Files[trust.TimestampFile]
	b.Snapshot = next(trust.Timestamp, b.Timestamp)
	b.Targets = next(trust.Snapshot, b.Snapshot)
	b.Manifest = next(trust.Targets, b.Targets)
	return b
}

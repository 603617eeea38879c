// Package trusttest makes signed repositories for tests, and attacks them. A repository
// may have content that no publisher would sign.
package trusttest

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
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

// Repo is a repository. Tests change its metadata; signing writes them into Files.
type Repo struct {
	Files map[string][]byte                 // by name
	Pin   []byte                            // 1.root.json, which two of three keys sign
	Keys  map[trust.Role][]signature.Signer // the keys that sign now, by role

	Root      *metadata.Metadata[metadata.RootType]
	Timestamp *metadata.Metadata[metadata.TimestampType]
	Snapshot  *metadata.Metadata[metadata.SnapshotType]
	Targets   *metadata.Metadata[metadata.TargetsType]

	// Check makes the client of the test read the repository, for [Attack]. The client
	// must take the release of the sequence want (int) or refuse with the text want.
	Check func(want any)

	t         testing.TB
	publisher string
	now       time.Time         // the time of the first release
	manifest  manifest.Manifest // of the newest release
}

// New returns a repository that has just published the manifest.
func New(t testing.TB, m *manifest.Manifest) *Repo {
	t.Helper()
	return NewOf(t, "publisher", time.Now(), m)
}

// NewOf returns a repository of another publisher, with other keys, that published at now.
func NewOf(t testing.TB, publisher string, now time.Time, m *manifest.Manifest) *Repo {
	t.Helper()
	r := &Repo{
		t: t, publisher: publisher, now: now, Files: map[string][]byte{},
		Root:      metadata.Root(now.Add(365 * day)),
		Timestamp: metadata.Timestamp(now.Add(7 * day)),
		Snapshot:  metadata.Snapshot(now.Add(7 * day)),
		Targets:   metadata.Targets(now.Add(45 * day)),
	}
	online := r.Key("online")
	r.Keys = map[trust.Role][]signature.Signer{
		trust.RoleRoot: {r.Key("root 1"), r.Key("root 2")}, trust.RoleTargets: {r.Key("targets")}, trust.RoleSnapshot: {online}, trust.RoleTimestamp: {online},
	}
	for role, keys := range r.Keys {
		for _, k := range keys {
			r.must(r.Root.Signed.AddKey(Public(k), string(role)))
		}
	}
	r.must(r.Root.Signed.AddKey(Public(r.Key("root 3")), metadata.ROOT))
	r.Root.Signed.Roles[metadata.ROOT].Threshold = 2
	r.Root.Signed.Version, r.Timestamp.Signed.Version, r.Snapshot.Signed.Version, r.Targets.Signed.Version = 0, 0, 0, 0
	r.SignRoot()
	r.Pin = r.Files["1.root.json"]
	r.Publish(m)
	return r
}

// Key returns the publisher's key of this name. It is the same in every run.
func (r *Repo) Key(name string) signature.Signer {
	seed := sha256.Sum256([]byte(r.publisher + " " + name))
	s, err := signature.LoadSigner(ed25519.NewKeyFromSeed(seed[:]), crypto.Hash(0))
	r.must(err)
	return s
}

// Public returns the public half of a key in the form that metadata has.
func Public(s signature.Signer) *metadata.Key {
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

func (r *Repo) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// Sign returns a document with the signatures of exactly these keys.
func Sign[T metadata.Roles](r *Repo, m *metadata.Metadata[T], keys ...signature.Signer) []byte {
	r.t.Helper()
	m.ClearSignatures()
	for _, k := range keys {
		_, err := m.Sign(k)
		r.must(err)
	}
	return encode(r, m)
}

func encode[T metadata.Roles](r *Repo, m *metadata.Metadata[T]) []byte {
	b, err := m.ToBytes(false)
	r.must(err)
	return b
}

// SignRoot publishes the root as its next version, signed by keys; without any, by the
// root's own keys.
func (r *Repo) SignRoot(keys ...signature.Signer) {
	r.t.Helper()
	if len(keys) == 0 {
		keys = r.Keys[trust.RoleRoot]
	}
	r.Root.Signed.Version++
	r.Files[fmt.Sprintf("%d.root.json", r.Root.Signed.Version)] = Sign(r, r.Root, keys...)
}

// Revoke removes a key from a role, in the next root.
func (r *Repo) Revoke(role trust.Role, k signature.Signer) {
	r.t.Helper()
	id, err := Public(k).ID()
	r.must(err)
	r.must(r.Root.Signed.RevokeKey(id, string(role)))
}

// ReplaceOnline publishes a root with another key for timestamp and snapshot. Both stay
// signed by the earlier key.
func (r *Repo) ReplaceOnline() {
	r.t.Helper()
	next := r.Key(fmt.Sprint("online ", r.Root.Signed.Version+1))
	for _, role := range []trust.Role{trust.RoleTimestamp, trust.RoleSnapshot} {
		r.Revoke(role, r.Keys[role][0])
		r.Keys[role] = []signature.Signer{next}
		r.must(r.Root.Signed.AddKey(Public(next), string(role)))
	}
	r.SignRoot()
}

// Rotate replaces the online key, and signs with the new one.
func (r *Repo) Rotate() {
	r.t.Helper()
	r.ReplaceOnline()
	r.Refresh()
}

// Release publishes the newest release again, with this sequence.
func (r *Repo) Release(sequence int) {
	r.t.Helper()
	m := r.manifest
	m.Version, m.Sequence = fmt.Sprint("v", sequence), int64(sequence)
	r.Publish(&m)
}

// Publish signs a manifest.
func (r *Repo) Publish(m *manifest.Manifest) {
	r.t.Helper()
	raw, err := m.Marshal()
	r.must(err)
	r.PublishRaw(raw)
	r.manifest = *m
}

// PublishRaw signs and publishes raw as the manifest; it may be invalid.
func (r *Repo) PublishRaw(raw []byte) {
	r.t.Helper()
	file, err := metadata.TargetFile().FromBytes(manifest.FileName, raw)
	r.must(err)
	r.Targets.Signed.Targets = map[string]*metadata.TargetFiles{manifest.FileName: file}
	r.Targets.Signed.Version++
	r.Files[manifest.Digest(raw)+"."+manifest.FileName] = raw
	r.Files[manifest.FileName] = raw
	r.Refresh()
}

// Expire sets when timestamp and snapshot expire; it counts once they are signed again.
func (r *Repo) Expire(in time.Duration) {
	r.Timestamp.Signed.Expires, r.Snapshot.Signed.Expires = r.now.Add(in), r.now.Add(in)
}

// Refresh publishes a new snapshot and a new timestamp.
func (r *Repo) Refresh() {
	r.t.Helper()
	r.Snapshot.Signed.Version++
	r.Snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(r.Targets.Signed.Version)
	r.Timestamp.Signed.Version++
	r.Resign()
}

// Resign signs and publishes targets, snapshot and timestamp unchanged.
func (r *Repo) Resign() {
	r.t.Helper()
	r.Timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(r.Snapshot.Signed.Version)
	r.Files[fmt.Sprintf("%d.targets.json", r.Targets.Signed.Version)] = Sign(r, r.Targets, r.Keys[trust.RoleTargets]...)
	r.Files[fmt.Sprintf("%d.snapshot.json", r.Snapshot.Signed.Version)] = Sign(r, r.Snapshot, r.Keys[trust.RoleSnapshot]...)
	r.Files[trust.TimestampFile] = Sign(r, r.Timestamp, r.Keys[trust.RoleTimestamp]...)
}

// Kept returns a copy of the present files, for a mirror that stops updating.
func (r *Repo) Kept() map[string][]byte { return maps.Clone(r.Files) }

// Bundle returns what a hostile fetcher passes to a client that knows this many roots:
// all metadata of the repository, without any verification.
func (r *Repo) Bundle(known int64) trust.Metadata {
	get := func(name string, most int64) ([]byte, error) {
		if b := r.Files[name]; int64(len(b)) <= most || name == trust.TimestampFile {
			return b, nil
		}
		return nil, nil
	}
	b, _ := trust.Unverified(get) // an error ends the list early, which the client must notice
	root := r.Files[fmt.Sprintf("%d.root.json", known)]
	for len(b.Roots) <= 2*trust.MaxRotations { // a root may name itself as the next one
		name, most, err := trust.Next(trust.RoleRoot, root)
		if err != nil {
			break
		}
		if root, _ = get(name, most); root == nil {
			break
		}
		b.Roots = append(b.Roots, root)
	}
	return b
}

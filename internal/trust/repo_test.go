package trust

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// repo is a repository and two clients of it: this package's and go-tuf's own.
type repo struct {
	t     testing.TB
	files map[string][]byte
	keys  map[Role][]signature.Signer // who signs now

	root      *metadata.Metadata[metadata.RootType]
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	targets   *metadata.Metadata[metadata.TargetsType]

	now   time.Time
	pin   []byte
	state State
	cache string // of go-tuf's client
}

// key is the same in every run.
func key(name string) signature.Signer {
	seed := sha256.Sum256([]byte(name))
	s, err := signature.LoadSigner(ed25519.NewKeyFromSeed(seed[:]), crypto.Hash(0))
	if err != nil {
		panic(err)
	}
	return s
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

func newRepo(t testing.TB) *repo {
	r := &repo{t: t, files: map[string][]byte{}, now: start, cache: t.TempDir(), keys: map[Role][]signature.Signer{
		Root: {key("root 1"), key("root 2")}, Targets: {key("targets")}, Snapshot: {key("online")}, Timestamp: {key("online")},
	}}
	r.root = metadata.Root(start.Add(365 * day))
	r.timestamp = metadata.Timestamp(start.Add(7 * day))
	r.snapshot = metadata.Snapshot(start.Add(7 * day))
	r.targets = metadata.Targets(start.Add(45 * day))
	for role, keys := range r.keys {
		for _, k := range keys {
			r.must(r.root.Signed.AddKey(public(k), string(role)))
		}
	}
	r.must(r.root.Signed.AddKey(public(key("root 3")), "root"))
	r.root.Signed.Roles["root"].Threshold = 2
	r.pin = sign(r, r.root, r.keys[Root]...)
	r.files["1.root.json"] = r.pin
	r.release(1)
	return r
}

func (r *repo) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func sign[T metadata.Roles](r *repo, m *metadata.Metadata[T], keys ...signature.Signer) []byte {
	r.t.Helper()
	m.ClearSignatures()
	for _, k := range keys {
		_, err := m.Sign(k)
		r.must(err)
	}
	b, err := m.ToBytes(false)
	r.must(err)
	return b
}

// rotate publishes the root as it is now, as the next version.
func (r *repo) rotate(keys ...signature.Signer) {
	r.t.Helper()
	r.root.Signed.Version++
	r.files[fmt.Sprintf("%d.root.json", r.root.Signed.Version)] = sign(r, r.root, keys...)
}

// replaceOnline gives timestamp and snapshot another key.
func (r *repo) replaceOnline() {
	for _, role := range []Role{Timestamp, Snapshot} {
		id, err := public(r.keys[role][0]).ID()
		r.must(err)
		r.must(r.root.Signed.RevokeKey(id, string(role)))
		r.keys[role] = []signature.Signer{key("online 2")}
		r.must(r.root.Signed.AddKey(public(r.keys[role][0]), string(role)))
	}
	r.rotate(r.keys[Root]...)
}

func text(sequence int) []byte {
	return fmt.Appendf(nil, `{"product":"agent","version":"v%d","sequence":%d,"platforms":{"linux-amd64":{"file":"a","sha256":"%s","size":1}}}`,
		sequence, sequence, manifest.Digest(nil))
}

// release publishes a manifest: all of the metadata below the root is new.
func (r *repo) release(sequence int) {
	r.t.Helper()
	raw := text(sequence)
	file, err := metadata.TargetFile().FromBytes(manifest.FileName, raw)
	r.must(err)
	r.targets.Signed.Targets = map[string]*metadata.TargetFiles{manifest.FileName: file}
	r.targets.Signed.Version = int64(sequence)
	r.files[manifest.Digest(raw)+"."+manifest.FileName] = raw
	r.publish()
}

func (r *repo) publish() {
	r.t.Helper()
	r.snapshot.Signed.Version++
	r.snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(r.targets.Signed.Version)
	r.timestamp.Signed.Version++
	r.resign()
}

// resign writes targets, snapshot and timestamp as they are.
func (r *repo) resign() {
	r.t.Helper()
	r.timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(r.snapshot.Signed.Version)
	r.files[fmt.Sprintf("%d.targets.json", r.targets.Signed.Version)] = sign(r, r.targets, r.keys[Targets]...)
	r.files[fmt.Sprintf("%d.snapshot.json", r.snapshot.Signed.Version)] = sign(r, r.snapshot, r.keys[Snapshot]...)
	r.files[TimestampFile] = sign(r, r.timestamp, r.keys[Timestamp]...)
}

// edit changes a document after it was signed.
func (r *repo) edit(file string, change func(signed map[string]any)) {
	r.t.Helper()
	var o map[string]any
	r.must(json.Unmarshal(r.files[file], &o))
	change(o["signed"].(map[string]any))
	b, err := json.Marshal(o)
	r.must(err)
	r.files[file] = b
}

// get does what the fetcher does.
func (r *repo) get() Bundle {
	var b Bundle
	for raw := r.pin; ; {
		name, _, err := Next(Root, raw)
		if err != nil || r.files[name] == nil {
			break
		}
		raw = r.files[name]
		b.Roots = append(b.Roots, raw)
	}
	next := func(role Role, of []byte) []byte {
		name, most, err := Next(role, of)
		if err != nil || int64(len(r.files[name])) > most {
			return nil
		}
		return r.files[name]
	}
	b.Timestamp = r.files[TimestampFile]
	b.Snapshot = next(Timestamp, b.Timestamp)
	b.Targets = next(Snapshot, b.Snapshot)
	b.Manifest = next(Targets, b.Targets)
	return b
}

// ours checks with this package: want is the sequence, or the error's text.
func (r *repo) ours(want any) (accepted bool) {
	r.t.Helper()
	got, state, err := Client{Pin: r.pin, State: r.state, Clock: r.now}.Check(r.get())
	// What is stored comes back as it was.
	stored, marshalErr := json.Marshal(state)
	r.must(marshalErr)
	r.state = State{}
	r.must(json.Unmarshal(stored, &r.state))
	switch want := want.(type) {
	case string:
		if err == nil || err.Error() != want {
			r.t.Errorf("got  %v\nwant %s", err, want)
		}
	case int:
		if err != nil || got.Manifest.Sequence != int64(want) {
			r.t.Errorf("got %+v, %v, want sequence %d", got, err, want)
		}
	}
	return err == nil
}

// check asks both clients, which must agree.
func (r *repo) check(want any) {
	r.t.Helper()
	accepted := r.ours(want)
	raw, err := r.theirs()
	if (err == nil) != accepted {
		r.t.Errorf("go-tuf's own client disagrees: %v", err)
	}
	if sequence, ok := want.(int); ok && err == nil && string(raw) != string(text(sequence)) {
		r.t.Errorf("go-tuf's own client got %s", raw)
	}
}

func (r *repo) theirs() ([]byte, error) {
	c, err := config.New("http://repo.example/", r.pin)
	r.must(err)
	c.RemoteTargetsURL = c.RemoteMetadataURL
	c.LocalMetadataDir, c.LocalTargetsDir = r.cache, r.cache
	c.Fetcher = r
	u, err := updater.New(c)
	if err != nil {
		return nil, err
	}
	u.UnsafeSetRefTime(r.now)
	if err := u.Refresh(); err != nil {
		return nil, err
	}
	info, err := u.GetTargetInfo(manifest.FileName)
	if err != nil {
		return nil, err
	}
	_, raw, err := u.DownloadTarget(info, "", "")
	return raw, err
}

// DownloadFile is go-tuf's fetcher.Fetcher.
func (r *repo) DownloadFile(url string, most int64, _ time.Duration) ([]byte, error) {
	b, ok := r.files[path.Base(url)]
	switch {
	case !ok:
		return nil, &metadata.ErrDownloadHTTP{StatusCode: 404, URL: url}
	case int64(len(b)) > most:
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: url}
	}
	return b, nil
}

// keep returns the files as they are, for a mirror that goes back to them.
func (r *repo) keep() map[string][]byte { return maps.Clone(r.files) }

func hexOf(s signature.Signer) string {
	p, err := s.PublicKey()
	if err != nil {
		panic(err)
	}
	return hex.EncodeToString(p.(ed25519.PublicKey))
}

package release

import (
	"fmt"
	"math"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// These are the lifetimes of signatures. A thief of the online key can keep machines from
// updates as long as targets is valid, a stale mirror as long as the timestamp.
const (
	day           = 24 * time.Hour
	rootExpiry    = 365 * day
	targetsExpiry = 45 * day
	onlineExpiry  = 7 * day
)

// signers are the keys of a publication; targets is nil if only the online key is needed.
type signers struct{ targets, online []signer }

// publishing loads the keys that a publication needs.
func (k Keys) publishing(r *signedDir) (s signers, err error) {
	if err := k.noRoot(); err != nil {
		return s, err
	}
	targets, err := k.signers(TargetsKey, &r.root.Signed, metadata.TARGETS)
	if err != nil {
		return s, err
	}
	s, err = k.refreshing(r)
	s.targets = targets
	return s, err
}

// refreshing loads the keys that a renewal of snapshot and timestamp needs.
func (k Keys) refreshing(r *signedDir) (s signers, err error) {
	if err := k.noRoot(); err != nil {
		return s, err
	}
	// Init and Rotate give the same keys to snapshot and timestamp.
	s.online, err = k.signers(OnlineKey, &r.root.Signed, metadata.TIMESTAMP)
	return s, err
}

// file is one to write.
type file struct {
	name string
	text []byte
}

// release is a manifest with the targets metadata that signs it.
type release struct {
	manifest []byte
	targets  *metadata.Metadata[metadata.TargetsType]
	signed   []byte // targets as written
}

// files returns what is written of the release, in the order of writing.
func (l *release) files() []file {
	return []file{{manifest.Digest(l.manifest) + "." + manifest.FileName, l.manifest}, {targetsFile(l.targets.Signed.Version), l.signed}}
}

func targetsFile(version int64) string { return fmt.Sprintf("%d.targets.json", version) }

// signTargets signs a manifest, as the version after last.
func signTargets(text []byte, last int64, keys []signer, now time.Time) (*release, error) {
	target, err := metadata.TargetFile().FromBytes(manifest.FileName, text)
	if err != nil {
		return nil, err
	}
	l := &release{manifest: text, targets: metadata.Targets(now.UTC().Truncate(time.Second).Add(targetsExpiry))}
	l.targets.Signed.Version = following(last)
	l.targets.Signed.Targets[manifest.FileName] = target
	l.signed, err = signed(l.targets, keys)
	return l, err
}

// publish returns the files of a publication, in the order of writing: the manifest under
// its digest, targets, snapshot, timestamp, the plain manifest. Machines see the old
// release until the timestamp is replaced, and the complete new one from then on. The
// plain manifest is last: a release that checksum clients have seen could not be
// discarded any more, while the signed one says how to complete it. next is nil if only
// snapshot and timestamp are renewed.
func (r *signedDir) publish(next *release, s signers, now time.Time) (files []file, err error) {
	now = now.UTC().Truncate(time.Second)
	b, targets := r.now, r.targets
	if next != nil {
		targets, b.Targets, b.Manifest = next.targets, next.signed, next.manifest
		files = next.files()
	}

	snapshot, timestamp := metadata.Snapshot(now.Add(onlineExpiry)), metadata.Timestamp(now.Add(onlineExpiry))
	if r.timestamp != nil {
		snapshot.Signed.Version = following(r.snapshot.Signed.Version)
		timestamp.Signed.Version = following(r.timestamp.Signed.Version)
	}
	if snapshot.Signed.Meta["targets.json"], err = describe(targets.Signed.Version, b.Targets); err != nil {
		return nil, err
	}
	if b.Snapshot, err = signed(snapshot, s.online); err != nil {
		return nil, err
	}
	if timestamp.Signed.Meta["snapshot.json"], err = describe(snapshot.Signed.Version, b.Snapshot); err != nil {
		return nil, err
	}
	if b.Timestamp, err = signed(timestamp, s.online); err != nil {
		return nil, err
	}
	if err := r.check(b, now); err != nil {
		return nil, err
	}
	files = append(files, file{fmt.Sprintf("%d.snapshot.json", snapshot.Signed.Version), b.Snapshot},
		file{trust.TimestampFile, b.Timestamp})
	if next != nil {
		files = append(files, file{manifest.FileName, next.manifest})
	}
	r.now, r.targets, r.snapshot, r.timestamp = b, targets, snapshot, timestamp
	return files, nil
}

// following returns the next version. After the largest one it is 1: a thief of a key may
// have signed that to block all later versions. While the root still names the stolen
// key, check refuses version 1.
func following(version int64) int64 {
	if version == math.MaxInt64 {
		return 1
	}
	return version + 1
}

func describe(version int64, b []byte) (*metadata.MetaFiles, error) {
	t, err := metadata.TargetFile().FromBytes("", b)
	if err != nil {
		return nil, err
	}
	return &metadata.MetaFiles{Version: version, Length: t.Length, Hashes: t.Hashes}, nil
}

func signed[T metadata.Roles](m *metadata.Metadata[T], keys []signer) ([]byte, error) {
	for _, k := range keys {
		if _, err := m.Sign(k); err != nil {
			return nil, err
		}
	}
	b, err := m.ToBytes(true)
	return append(b, '\n'), err
}

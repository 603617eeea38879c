package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// repository is the signed part of a directory, as its files are. They are the
// publisher's own; that machines will accept what is made of them is checked
// before it is published (check).
type repository struct {
	dir  *dir
	root *metadata.Metadata[metadata.RootType]
	now  trust.Bundle // what a machine gets now; all but Roots nil before the first publication

	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	targets   *metadata.Metadata[metadata.TargetsType]
}

func rootFile(version int64) string { return fmt.Sprintf("%d.root.json", version) }

// openRepository reads the signed part, and nil where there is none. What a
// killed publisher left is discarded: a file that no timestamp ever named.
func (d *dir) openRepository() (*repository, error) {
	r := &repository{dir: d}
	for version := int64(1); ; version++ {
		b, err := os.ReadFile(filepath.Join(d.Name(), rootFile(version)))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err == nil {
			_, _, err = trust.Next(trust.Root, b) // go-tuf takes its form for granted
		}
		if err == nil {
			r.root, err = metadata.Root().FromBytes(b)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", rootFile(version), plain(err))
		}
		r.now.Roots = append(r.now.Roots, b)
	}
	if r.root == nil {
		return nil, nil
	}
	if err := r.follow(); err != nil {
		return nil, err
	}
	return r, r.discard()
}

// follow reads what the timestamp leads to.
func (r *repository) follow() (err error) {
	r.now.Timestamp, err = os.ReadFile(filepath.Join(r.dir.Name(), trust.TimestampFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if r.now.Snapshot, err = r.next(trust.Timestamp, r.now.Timestamp); err != nil {
		return err
	}
	if r.now.Targets, err = r.next(trust.Snapshot, r.now.Snapshot); err != nil {
		return err
	}
	if r.now.Manifest, err = r.next(trust.Targets, r.now.Targets); err != nil {
		return err
	}
	// next has looked at the form of each, which go-tuf takes for granted.
	if r.timestamp, err = metadata.Timestamp().FromBytes(r.now.Timestamp); err != nil {
		return err
	}
	if r.snapshot, err = metadata.Snapshot().FromBytes(r.now.Snapshot); err != nil {
		return err
	}
	r.targets, err = metadata.Targets().FromBytes(r.now.Targets)
	return err
}

func (r *repository) next(role trust.Role, of []byte) ([]byte, error) {
	name, _, err := trust.Next(role, of)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(r.dir.Name(), name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, plain(err))
	}
	return b, nil
}

var (
	versioned = regexp.MustCompile(`^([0-9]{1,19})\.(targets|snapshot)\.json$`)
	hashed    = regexp.MustCompile(`^[0-9a-f]{64}\.client-manifest\.json$`)
)

// snapshotsKept is how many snapshots stay: a machine may be slow, and a cache have
// a timestamp of yesterday.
const snapshotsKept = 30

// discard removes metadata above what the timestamp names, the manifests that no
// targets name, and snapshots of long ago. A machine asks for none of them.
func (r *repository) discard() error {
	entries, err := os.ReadDir(r.dir.Name())
	if err != nil {
		return err
	}
	last := map[string]int64{"snapshot": 0, "targets": 0}
	if r.timestamp != nil {
		last["snapshot"], last["targets"] = r.snapshot.Signed.Version, r.targets.Signed.Version
	}
	named := map[string]bool{}
	var stray []string
	for _, e := range entries {
		if m := versioned.FindStringSubmatch(e.Name()); m != nil {
			if n, err := strconv.ParseInt(m[1], 10, 64); err != nil || n > last[m[2]] || m[2] == "snapshot" && n <= last[m[2]]-snapshotsKept {
				stray = append(stray, e.Name())
			} else if m[2] == "targets" {
				if b, err := os.ReadFile(filepath.Join(r.dir.Name(), e.Name())); err == nil {
					name, _, _ := trust.Next(trust.Targets, b) // "" names nothing
					named[name] = true
				}
			}
		}
	}
	for _, e := range entries {
		if hashed.MatchString(e.Name()) && !named[e.Name()] {
			stray = append(stray, e.Name())
		}
	}
	for _, name := range stray {
		if err := os.Remove(filepath.Join(r.dir.Name(), name)); err != nil {
			return err
		}
	}
	return nil
}

// complete writes the plain manifest, the last step of a publication, where a
// killed publisher did not come to it.
func (r *repository) complete() error {
	if r == nil || r.now.Manifest == nil {
		return nil
	}
	if sum, err := digest(filepath.Join(r.dir.Name(), manifest.FileName)); err == nil && sum == manifest.Digest(r.now.Manifest) {
		return nil
	}
	return r.dir.replace(manifest.FileName, r.now.Manifest)
}

// check asks the client's side whether a machine accepts the bundle, one that has
// seen what is published now, if that was good.
func (r *repository) check(b trust.Bundle, now time.Time) error {
	b.Roots = r.now.Roots
	c := trust.Client{Pin: r.now.Roots[0]}
	// By a clock that stands still nothing has expired.
	if _, state, err := c.Check(r.now); err == nil {
		c.State = state
		c.State.Seen = time.Time{}
	}
	c.Clock = now
	if _, _, err := c.Check(b); err != nil {
		return fmt.Errorf("no machine would accept it: %w", err)
	}
	return nil
}

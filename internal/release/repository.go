package release

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/trust"
)

type rootMetadata = metadata.Metadata[metadata.RootType]

// signedDir is the signed part of a directory. Reading it verifies only the roots, on
// which the next documents are built. The rest may have expired or be signed by a key
// that was replaced. check verifies a publication as machines do, before it is written.
type signedDir struct {
	path string
	root *rootMetadata
	now  trust.Metadata // what a machine gets now; all but Roots are nil before the first publication

	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	targets   *metadata.Metadata[metadata.TargetsType]
}

func rootFile(version int64) string { return fmt.Sprintf("%d.root.json", version) }

// readSigned reads the signed part; it returns nil if there is none. It changes nothing
// and takes no lock: a publication replaces files one by one, in an order that is
// consistent for a reader at each moment.
func readSigned(path string) (*signedDir, error) {
	r, err := readRoots(path)
	if err == nil && r != nil {
		err = r.follow()
	}
	return r, err
}

// readRoots reads only the roots, which is all that their holders need.
func readRoots(path string) (r *signedDir, err error) {
	r = &signedDir{path: path}
	if r.now.Roots, err = trust.Roots(filesOf(path)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		r.root, err = metadata.Root().FromBytes(r.now.Roots[len(r.now.Roots)-1])
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// parseRoot checks the form before go-tuf parses the root, which does not check it.
func parseRoot(b []byte) (*rootMetadata, error) {
	if _, _, err := trust.Next(trust.RoleRoot, b); err != nil {
		return nil, err
	}
	return metadata.Root().FromBytes(b)
}

// holds returns an error if the roots do not follow from the pin. Each root follows from
// the one before, so the pin must be one of them.
func (r *signedDir) holds(pin string) error {
	if pin == "" {
		return nil
	}
	b, err := os.ReadFile(pin)
	if err != nil {
		return fmt.Errorf("%s: %w", pin, plain(err))
	}
	if !slices.ContainsFunc(r.now.Roots, func(root []byte) bool { return bytes.Equal(root, b) }) {
		return fmt.Errorf("its roots do not follow from %s: they were replaced", pin)
	}
	return nil
}

// follow reads the metadata that the timestamp leads to.
func (r *signedDir) follow() error {
	b, err := trust.Unverified(filesOf(r.path))
	b.Roots = r.now.Roots
	r.now = b
	if b.Timestamp == nil && errors.Is(err, fs.ErrNotExist) {
		return r.neverPublished()
	}
	if err != nil {
		return err
	}
	// go-tuf does not check the form; Unverified has checked it.
	if r.timestamp, err = metadata.Timestamp().FromBytes(r.now.Timestamp); err != nil {
		return err
	}
	if r.snapshot, err = metadata.Snapshot().FromBytes(r.now.Snapshot); err != nil {
		return err
	}
	r.targets, err = metadata.Targets().FromBytes(r.now.Targets)
	return err
}

var (
	versioned = regexp.MustCompile(`^([0-9]{1,19})\.(targets|snapshot)\.json$`)
	hashed    = regexp.MustCompile(`^[0-9a-f]{64}\.client-manifest\.json$`)
)

// neverPublished returns an error if the directory once had a timestamp and lost it.
// Machines that have seen a later version would refuse version 1, and the files that show
// the lost version would be discarded. A first publication that was killed is allowed: it
// left files of version 1, and a manifest named by its digest only.
func (r *signedDir) neverPublished() error {
	entries, err := os.ReadDir(r.path)
	if err != nil {
		return err
	}
	written := false
	if sum, err := digest(filepath.Join(r.path, manifest.FileName)); err == nil {
		_, err := os.Lstat(filepath.Join(r.path, sum+"."+manifest.FileName))
		written = err == nil
	}
	newest, at := int64(0), ""
	for _, e := range entries {
		if m := versioned.FindStringSubmatch(e.Name()); m != nil {
			n, err := strconv.ParseInt(m[1], 10, 64)
			if err == nil && n > newest {
				newest, at = n, e.Name()
			}
		}
	}
	if newest > 1 || newest == 1 && written {
		return fmt.Errorf("%s is missing, but %s is there (hint: restore it)", trust.TimestampFile, at)
	}
	return nil
}

// check returns an error if a machine that has the present metadata would refuse b. The
// present metadata counts only if it is valid itself.
func (r *signedDir) check(b trust.Metadata, now time.Time) error {
	b.Roots = r.now.Roots
	c := trust.Client{Pin: r.now.Roots[0]}
	// The zero Clock means that nothing has expired.
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

package state

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Listed is what a release's own list of files says, if the target has [install_manifest].
type Listed struct {
	// List is the list. Deltas to a release with the same list need no archive.
	List string `json:"list,omitempty"`
	// LeftOut maps the entries of the archive that the list names and the target file
	// excludes to their sha256. Such a script may contain a migration, which is not run.
	LeftOut map[string]string `json:"left_out,omitempty"`
}

// Inside is what the verifier found in the archive of a release whose manifest does not show
// it.
type Inside struct {
	Of string `json:"of"` // as [Offer] has it
	// LeftOut is as in [Listed].
	LeftOut map[string]string `json:"left_out,omitempty"`
}

// Unseen warns that a check could not look into an archive.
func Unseen(err error) string {
	return fmt.Sprintf("whether a script that the target leaves out has changed is not known: %v", err)
}

// Unrun warns of entries that the target file excludes and that are not known to be those
// of r, the installed release or nil; "" if there are none. version and leftOut are the new
// release's, and where says where its files can be read.
func (r *Release) Unrun(version string, leftOut map[string]string, where string) string {
	var changed []string
	was := "the one of the installed release is not known"
	for _, entry := range slices.Sorted(maps.Keys(leftOut)) {
		if r == nil || r.LeftOut[entry] != leftOut[entry] {
			changed = append(changed, path.Base(entry))
		}
	}
	if len(changed) == 0 {
		return ""
	}
	if r != nil && len(r.LeftOut) > 0 {
		was = "it differs from that of " + cmp.Or(r.Version, "the installed release")
	}
	const most = 5
	names := strings.Join(changed[:min(len(changed), most)], ", ")
	if more := len(changed) - most; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("%s of %s is not run, and %s: it may contain a migration (hint: read it in %s; write a pre_swap hook for what it migrates)",
		names, version, was, where)
}

// leftOut is the directory of the files that the installed release brings for its own
// updater, for the operator to read.
func (t Tree) leftOut(target string) string {
	return filepath.Join(t.Dir(RoleSwap, target), "left-out")
}

// KeepLeftOut keeps a release's excluded files, by their names, instead of those of an
// earlier release. It returns their directory.
func (t Tree) KeepLeftOut(target string, files map[string][]byte) (dir string, err error) {
	dir = t.leftOut(target)
	if err = os.RemoveAll(dir); err == nil {
		err = os.Mkdir(dir, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755) // regardless of the umask
	}
	if err != nil {
		return "", fmt.Errorf("cannot make %s: %w", dir, durable.Cause(err))
	}
	for name, content := range files {
		if err := durable.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

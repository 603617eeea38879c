package verify

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/machinemon/machinemon-update/internal/archive"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// addListed reads the release's list, which was extracted under this name, and adds its
// files to the target. name is "" if the archive has no list.
func (v *verifier) addListed(t *target.Target, name string, tree *state.Bundle) error {
	entry := t.Listing.Entry(v.key, v.manifest.Version)
	if name == "" {
		if t.Listing.Optional {
			return nil
		}
		return state.Refused("cannot unpack %s: the archive has no %s", v.platform.File, entry)
	}
	list, err := tree.Read(name, target.MaxList)
	if err == nil {
		_, err = t.AddListed(list, v.key, v.manifest.Version)
	}
	if err != nil {
		return state.Refused("cannot use %s of %s: %w", entry, v.platform.File, err)
	}
	return nil
}

// complete returns an error for an archive that lacks a file that is required or that the
// manifest's contents list.
func (v *verifier) complete(installs []target.Install, names map[string]string) error {
	var missing []string
	for _, i := range installs {
		entry := i.Name(v.key, v.manifest.Version)
		_, there := names[entry]
		_, listed := v.platform.Contents[entry]
		if !there && (!i.Optional || listed) && !slices.Contains(missing, entry) {
			missing = append(missing, entry)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return state.Refused("cannot unpack %s: the archive has no %s", v.platform.File, strings.Join(missing, ", no "))
}

// keepWanted compares what the target installs, and the list, with the manifest's
// contents, and removes the other extracted files.
func (v *verifier) keepWanted(installs []target.Install, files []archive.File, list string, tree *state.Bundle) ([]state.ReceiptFile, error) {
	wanted := map[string]bool{list: true} // no entry has the name ""
	for _, i := range installs {
		wanted[i.Name(v.key, v.manifest.Version)] = true
	}
	var listed []state.ReceiptFile
	for n, f := range files {
		name := strconv.Itoa(n)
		if !wanted[f.Name] {
			if err := tree.Remove(name); err != nil {
				return nil, fmt.Errorf("cannot remove %s, which %s does not name: %w", f.Name, list, err)
			}
			continue
		}
		if err := v.compare(f); err != nil {
			return nil, err
		}
		listed = append(listed, state.ReceiptFile{Entry: f.Name, Name: name})
	}
	return listed, nil
}

package verify

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/machinemon/machinemon-update/internal/archive"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// addListed reads the release's list, which was extracted under this name, adds its files
// to the target, and returns the entries that the target file excludes. name is "" if the
// archive has no list.
func (v *verifier) addListed(t *target.Target, name string, tree *state.Bundle) (excluded []string, err error) {
	entry := t.Listing.Entry(v.key, v.manifest.Version)
	if name == "" {
		if t.Listing.Optional {
			return nil, nil
		}
		return nil, v.lacks([]string{entry})
	}
	list, err := tree.Read(name, target.MaxList)
	if err == nil {
		excluded, err = t.AddListed(list, v.key, v.manifest.Version)
	}
	if err != nil {
		return nil, state.Refused("cannot use %s of %s: %w", entry, v.platform.File, err)
	}
	return excluded, nil
}

// complete returns an error for an archive that lacks a file that is required or that the
// manifest's contents list.
func (v *verifier) complete(installs []target.Install, names map[string]string) error {
	var missing, lines []string
	for _, i := range installs {
		files, err := v.files(i, i.Tree)
		if err != nil {
			return err
		}
		name := i.Name(v.key, v.manifest.Version)
		if _, listed := v.platform.Contents[name]; len(files) == 0 && (!i.Optional || listed) && !slices.Contains(missing, name) {
			missing = append(missing, name)
			if from := i.Elsewhere(v.key, v.manifest.Version, v.usable()); from != "" {
				lines = append(lines, fmt.Sprintf("from = %q", from))
			}
		}
		for _, entry := range files {
			if why := v.entries[entry]; why != "" {
				return state.Refused("cannot unpack %s: entry %q: %s", v.platform.File, entry, why)
			}
			if _, there := names[entry]; !there && !slices.Contains(missing, entry) {
				missing = append(missing, entry)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	hint := ""
	if len(lines) > 0 {
		hint = " (hint: " + strings.Join(lines, ", ") + ")"
	}
	return fmt.Errorf("%w%s", v.lacks(missing), hint)
}

// usable returns the names of the entries that can be installed.
func (v *verifier) usable() (names []string) {
	for name, why := range v.entries {
		if why == "" {
			names = append(names, name)
		}
	}
	return names
}

// lacks returns the error that the archive lacks entries, and says what it has.
func (v *verifier) lacks(missing []string) error {
	names := slices.Collect(maps.Keys(v.entries))
	has := "it is empty"
	if _, single := v.entries[archive.Single]; single {
		has = `it is one program, whose name is "."`
	} else if len(names) > 0 {
		has = "it has " + target.SomeNames(names)
	}
	for _, name := range missing {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if why := v.entries[dir]; why != "" {
				has += fmt.Sprintf("; %s: %s", dir, why)
			}
		}
	}
	return state.Refused("cannot unpack %s: the archive has no %s (%s)", v.platform.File, strings.Join(missing, ", no "), has)
}

// keepWanted compares the wanted entries with the manifest's contents, and removes the
// other extracted files.
func (v *verifier) keepWanted(wanted map[string]bool, files []archive.File, tree *state.Bundle) ([]state.ReceiptFile, error) {
	var listed []state.ReceiptFile
	for n, f := range files {
		name := strconv.Itoa(n)
		if !wanted[f.Name] {
			if err := tree.Remove(name); err != nil {
				return nil, fmt.Errorf("cannot remove %s, which is not wanted: %w", f.Name, err)
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

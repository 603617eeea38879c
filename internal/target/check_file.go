package target

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// CheckFile returns an error if the target file at path would be refused in the place of
// the administrator's T.toml, T.toml being path's last element. The vendor's files of that
// name count, if this machine has them; nothing else of this machine does: neither the
// owners of files nor which directories exist. So a target file can be checked before it
// is on its machine. The error is a *ConfigError.
func (d Dirs) CheckFile(path string) error {
	name, isTOML := strings.CutSuffix(filepath.Base(path), ".toml")
	if !isTOML {
		return &ConfigError{Target: printable(name), File: path, Problem: "is no name for a target file (allowed: NAME.toml)"}
	}
	if err := d.checkFile(path, name); err != nil {
		err.Target = printable(name)
		return err
	}
	return nil
}

func (d Dirs) checkFile(path, name string) *ConfigError {
	if err := validName(name); err != nil {
		return err
	}
	files, err := d.fragments(name)
	if err != nil {
		return err
	}
	files = append(slices.DeleteFunc(files, func(f string) bool { return within(f, d.Admin) }), path)
	v := validation{settings: settings{}, dirs: d, check: checker{root: d.Root, elsewhere: true}}
	v.dirs.Admin = filepath.Dir(path) // a rule about what only the administrator may write looks at this
	for order, file := range files {
		root := d.Root
		if file == path {
			root = ""
		}
		data, err := readFragment(root, file)
		if err != nil {
			return err
		}
		if err := v.merge(data, file, order); err != nil {
			return err
		}
	}
	_, err = v.target(name, files)
	return err
}

// readFragment reads the file of CheckFile, whose owner does not matter.
func readFragment(root, file string) ([]byte, *ConfigError) {
	f, err := durable.OpenRegular(filepath.Join(root, file))
	if err != nil {
		return nil, unopened(file, err, "")
	}
	defer f.Close()
	return content(f, file, maxFragment)
}

// CheckExisting is [Target.CheckDestinations] on a machine on which the program may not be
// installed yet: a directory that is missing, or that this process may not look at, is no
// error.
func (t *Target) CheckExisting(all []*Target) error {
	existing := *t
	existing.check.existing = true
	return existing.CheckDestinations(all)
}

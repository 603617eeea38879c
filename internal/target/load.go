package target

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/pattern"
)

// maxFragment is the size in bytes of the largest file that is read as a target file or
// as the file of source.url_from. Real ones are far smaller.
const maxFragment = 64 << 10

// maxPin is the size in bytes of the largest root that is read from trust.root, the same
// as trust.MaxRoot.
const maxPin = 512_000

// maxKeys is the size in bytes of the largest file that is read from trust.key, the same
// as signature.MaxKeys.
const maxKeys = 256 << 10

// AutoUpdate is the drop-in that the verbs enable and disable write. Its name sorts late
// among the drop-ins, so that it overrides them.
const AutoUpdate = "90-auto-update.toml"

// targetName matches the names that a target may have. The name becomes a systemd
// instance, a file and a directory.
var targetName = pattern.New(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// verbs are the verbs of the command, including those planned for later versions. They
// are refused as names of targets, so that an upgrade makes no target unreachable.
var verbs = []string{
	"status", "apply", "check", "history", "rollback", "version", "hold", "unhold", "skip", "unskip",
	"enable", "disable", "import", "trust", "drill", "directive", "completion", "help",
	"probe", "settle", "init", "doctor", "check-config", "notify",
}

// ValidName reports whether name has the form of a target's name. Load also refuses the
// verbs of the command.
func ValidName(name string) bool { return targetName.MatchString(name) }

func validName(name string) *ConfigError {
	if !targetName.MatchString(name) {
		e := &ConfigError{Problem: "is no name for a target (allowed: 1 to 64 of a-z 0-9 . _ -, the first a letter or digit)"}
		if lower := strings.ToLower(name); ValidName(lower) {
			e.Hint = "rename it to " + lower
		}
		return e
	}
	if slices.Contains(verbs, name) {
		return &ConfigError{Problem: "is no name for a target, as it is a verb of the command"}
	}
	return nil
}

// Names returns, sorted, the name of every target that a T.toml or a drop-in describes.
// It ignores [AutoUpdate], which remains when the package that brings T.toml is removed.
// Names that a target may not have are included: Load reports them.
func (d Dirs) Names() ([]string, error) {
	names := map[string]bool{}
	for _, dir := range []string{d.Vendor, d.Admin} {
		entries, err := os.ReadDir(filepath.Join(d.Root, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot list targets in %s: %w", dir, durable.Cause(err))
		}
		for _, e := range entries {
			name, ok := strings.CutSuffix(e.Name(), ".toml")
			if dropins, isDir := strings.CutSuffix(e.Name(), ".toml.d"); isDir && e.IsDir() {
				name, ok = dropins, describes(filepath.Join(d.Root, dir, e.Name()))
			}
			if ok && !strings.HasPrefix(name, ".") && name != "" {
				names[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// Unread returns a line about each of the administrator's files that looks like a target
// file by another name, and so is not read.
func (d Dirs) Unread() (lines []string) {
	entries, _ := os.ReadDir(filepath.Join(d.Root, d.Admin)) // Names reports the error
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if name := strings.ToLower(strings.TrimSuffix(e.Name(), ext)); ValidName(name) && slices.Contains(otherForms, ext) {
			lines = append(lines, fmt.Sprintf("%s is not read (hint: a target file is NAME.toml: sudo mv %[1]s %s.toml)", filepath.Join(d.Admin, e.Name()), filepath.Join(d.Admin, name)))
		}
	}
	return lines
}

// otherForms are the ends of names of other programs' configuration.
var otherForms = []string{".conf", ".cfg", ".ini", ".json", ".yaml", ".yml", ".tml", ".TOML"}

// describes reports whether a directory T.toml.d has a drop-in besides AutoUpdate. It
// returns true if the directory cannot be read, so that Load reports the error.
func describes(dropins string) bool {
	files, err := os.ReadDir(dropins)
	return err != nil || slices.ContainsFunc(files, func(f fs.DirEntry) bool { return dropIn(f.Name()) && f.Name() != AutoUpdate })
}

// Load reads, merges and validates the target's fragments. Only root may be able to write
// them and the files that they make root run or read. The error is a *ConfigError.
func (d Dirs) Load(name string) (*Target, error) {
	t, err := d.load(name)
	if err != nil {
		err.Target = printable(name)
		return nil, err
	}
	return t, nil
}

func (d Dirs) load(name string) (*Target, *ConfigError) {
	if err := validName(name); err != nil {
		return nil, err
	}
	files, err := d.fragments(name)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, &ConfigError{
			Problem: fmt.Sprintf("no %s.toml in %s or %s", name, d.Admin, d.Vendor),
			Hint:    "`machinemon-update status` lists the targets",
		}
	}
	v := validation{settings: settings{}, dirs: d, check: checker{root: d.Root}}
	for order, file := range files {
		data, err := v.check.read(file, maxFragment, "target files hold no secrets and are readable by everyone: chmod 0644")
		if err != nil {
			return nil, err
		}
		if err := v.merge(data, file, order); err != nil {
			return nil, err
		}
	}
	t, err := v.target(name, files)
	if err == nil {
		t.addNotify(d)
	}
	return t, err
}

// merge adds a fragment, which overrides those of a lower order.
func (v *validation) merge(data []byte, file string, order int) *ConfigError {
	f, err := parse(data)
	if err != nil {
		err.File = file
		return err
	}
	v.settings.merge(f, file, order)
	return nil
}

// fragments returns the target's files in the order in which they override each other:
// the vendor's T.toml, the administrator's T.toml, the vendor's drop-ins, the
// administrator's drop-ins.
func (d Dirs) fragments(name string) ([]string, *ConfigError) {
	var files []string
	for _, dir := range []string{d.Vendor, d.Admin} {
		file := filepath.Join(dir, name+".toml")
		switch _, err := os.Lstat(filepath.Join(d.Root, file)); {
		case err == nil:
			files = append(files, file)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, &ConfigError{File: file, Problem: "cannot be read: " + durable.Cause(err).Error()}
		}
	}
	for _, dir := range []string{d.Vendor, d.Admin} {
		dropins := filepath.Join(dir, name+".toml.d")
		entries, err := os.ReadDir(filepath.Join(d.Root, dropins)) // os.ReadDir sorts by name
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, &ConfigError{File: dropins, Problem: "cannot be read: " + durable.Cause(err).Error()}
		}
		for _, e := range entries {
			if !dropIn(e.Name()) || filepath.Join(dropins, e.Name()) == d.Without {
				continue
			}
			if hasControl(e.Name()) {
				return nil, &ConfigError{File: dropins, Problem: "holds a file with control characters in its name"}
			}
			files = append(files, filepath.Join(dropins, e.Name()))
		}
	}
	return files, nil
}

// dropIn reports whether a file in a T.toml.d is read.
func dropIn(name string) bool {
	return strings.HasSuffix(name, ".toml") && !strings.HasPrefix(name, ".")
}

// read returns the content of a file that only root can write and that has up to most
// bytes. It refuses symlinks and everything that is not a regular file, so it cannot
// block on a FIFO. unreadable is the hint for a process that has no permission to read
// the file.
func (c checker) read(file string, most int64, unreadable string) ([]byte, *ConfigError) {
	if err := c.rootOnly(filepath.Dir(file)); err != nil {
		return nil, &ConfigError{File: file, Problem: err.Error(), Hint: rootOnlyHint}
	}
	f, err := durable.OpenRegular(filepath.Join(c.root, file))
	if err != nil {
		return nil, unopened(file, err, unreadable)
	}
	defer f.Close()
	if err := c.rootOnly(file); err != nil {
		return nil, &ConfigError{File: file, Problem: err.Error(), Hint: rootOnlyHint}
	}
	return content(f, file, most)
}

// unopened returns the error for a file that could not be opened.
func unopened(file string, err error, unreadable string) *ConfigError {
	switch {
	case errors.Is(err, durable.ErrSymlink):
		return &ConfigError{File: file, Problem: "must be a regular file, not a symlink"}
	case errors.Is(err, durable.ErrNotRegular):
		return &ConfigError{File: file, Problem: "must be a regular file"}
	case errors.Is(err, fs.ErrPermission):
		return &ConfigError{File: file, Problem: "cannot be read: " + durable.Cause(err).Error(), Hint: unreadable}
	}
	return &ConfigError{File: file, Problem: "cannot be read: " + durable.Cause(err).Error()}
}

// content reads an open file of up to most bytes.
func content(f *os.File, file string, most int64) ([]byte, *ConfigError) {
	data, err := durable.ReadAll(f, most)
	switch {
	case errors.Is(err, durable.ErrTooLarge):
		return nil, &ConfigError{File: file, Problem: fmt.Sprintf("is larger than %d KiB", most>>10)}
	case err != nil:
		return nil, &ConfigError{File: file, Problem: "cannot be read: " + durable.Cause(err).Error()}
	}
	return data, nil
}

// printable returns name as an error may print it: file names can contain any character.
func printable(name string) string {
	if targetName.MatchString(name) {
		return name
	}
	return shown(strconv.QuoteToASCII(name))
}

package swap

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/unit"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// warnOfChildren warns, before any file is replaced, of a release whose unit file ends
// processes that the unit leaves alone now (KillMode=). This update still spares them;
// the next stop after it does not.
func (sw *swapping) warnOfChildren(u systemd.Unit) {
	j := sw.journal
	if !u.SparesChildren() || !slices.ContainsFunc(j.Changes, func(c state.Change) bool { return isOfUnit(c.To, u.Name) }) {
		return
	}
	mode, err := killMode(u, j.Changes)
	if err != nil {
		sw.logf("%s: cannot see which KillMode= %s will have: %v", describe(j), u.Name, err)
		return
	}
	if (systemd.Unit{KillMode: mode}).SparesChildren() {
		return
	}
	warning := fmt.Sprintf("with the unit file of %s, a stop of %s ends all its processes (KillMode=%s); until now it left its children alone (KillMode=%s)",
		j.Version, u.Name, mode, u.KillMode)
	sw.logf("%s: warning: %s", describe(j), warning)
	j.Warn(warning)
}

// isOfUnit reports whether a file is the unit file of the named unit or a drop-in of it.
func isOfUnit(path, name string) bool {
	return isUnitFile(path) && (hasName(name, filepath.Base(path)) || isDropIn(path, name))
}

func isDropIn(path, name string) bool {
	dir, isDir := strings.CutSuffix(filepath.Base(filepath.Dir(path)), ".d")
	return isDir && strings.HasSuffix(path, ".conf") && (hasName(name, dir) || "."+dir == filepath.Ext(name))
}

// hasName reports whether a file name is that of the unit's file or of its template's.
func hasName(unit, file string) bool {
	if prefix, _, ok := strings.Cut(unit, "@"); ok && prefix+"@"+filepath.Ext(unit) == file {
		return true
	}
	return unit == file
}

// killMode returns the unit's KillMode= once the changes are made. It reads a file of the
// release where that is staged, and chooses between directories as systemd would.
func killMode(u systemd.Unit, changes []state.Change) (string, error) {
	main := u.Fragment
	dropIns, contents := map[string]string{}, map[string]string{}
	choose := func(old, path string) string {
		if old == "" || rank(path) < rank(old) {
			return path
		}
		return old
	}
	gone := map[string]bool{}
	for _, c := range changes {
		switch {
		case !isOfUnit(c.To, u.Name):
		case c.Kind == state.KindRemove:
			gone[c.To] = true
		case c.Kind == state.KindReplace && isDropIn(c.To, u.Name):
			contents[c.To] = c.Staged
			dropIns[filepath.Base(c.To)] = choose(dropIns[filepath.Base(c.To)], c.To)
		case c.Kind == state.KindReplace:
			contents[c.To] = c.Staged
			main = choose(main, c.To)
		}
	}
	for _, path := range u.DropIns {
		if !gone[path] {
			dropIns[filepath.Base(path)] = choose(dropIns[filepath.Base(path)], path)
		}
	}
	files := []string{main}
	for _, name := range slices.Sorted(maps.Keys(dropIns)) {
		files = append(files, dropIns[name])
	}
	mode := "control-group"
	for _, path := range files {
		said, err := saidKillMode(cmp.Or(contents[path], path))
		if err != nil {
			return "", err
		}
		mode = cmp.Or(said, mode)
	}
	return mode, nil
}

// rank returns the precedence of a unit file's directory: of files with the same name,
// systemd reads the one with the lowest rank.
func rank(path string) int {
	for i, dir := range []string{"/etc/systemd/", "/run/systemd/", "/usr/local/lib/systemd/"} {
		if strings.HasPrefix(path, dir) {
			return i
		}
	}
	return 3
}

// saidKillMode returns the KillMode= that a file sets, or "" if it sets none.
func saidKillMode(path string) (mode string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	options, err := unit.DeserializeOptions(f)
	if err != nil {
		return "", fmt.Errorf("cannot read %s: %w", path, err)
	}
	for _, o := range options {
		// systemd ignores other values.
		if o.Section == "Service" && o.Name == "KillMode" && slices.Contains([]string{"control-group", "mixed", "process", "none"}, o.Value) {
			mode = o.Value
		}
	}
	return mode, nil
}

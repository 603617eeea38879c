package swap

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// TestKillMode checks that killMode reads KillMode= as systemd does, from the files that
// are installed and those that the release brings.
func TestKillMode(t *testing.T) {
	dir := t.TempDir()
	unitDirs = append(unitDirs, dir)
	t.Cleanup(func() { unitDirs = slices.DeleteFunc(unitDirs, func(d string) bool { return d == dir }) })
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(content), 0o644))
		return path
	}
	const process, none = "[Service]\nKillMode=process\n", "[Unit]\nDescription=x\n[Service]\n"
	main, dropIn := write("vm@.service", process), write("vm@.service.d/50-kill.conf", process)
	bad := write("bad.service", "[Service]\nKillMode\n")
	for _, c := range []struct {
		name     string
		dropIns  []string
		replaces map[string]string // from destination to new content
		removes  []string
		want     string // "" for an error
	}{
		{name: "nothing changes", want: "process"},
		{name: "another main file", replaces: map[string]string{main: none}, want: "control-group"},
		{name: "one that says so", replaces: map[string]string{main: "[Service]\nKillMode=mixed\n"}, want: "mixed"},
		{name: "the last one counts", replaces: map[string]string{main: "[Service]\nKillMode=process\nKillMode=control-group\nKillMode=\nKillMode=nonsense\n"}, want: "control-group"},
		{name: "another section", replaces: map[string]string{main: "[Service]\n[Install]\nKillMode=process\n"}, want: "control-group"},
		{name: "a drop-in says more", dropIns: []string{dropIn}, replaces: map[string]string{main: none}, want: "process"},
		{name: "which the release replaces, too", dropIns: []string{dropIn}, replaces: map[string]string{main: none, dropIn: "[Service]\nKillMode=mixed\n"}, want: "mixed"},
		{name: "which the release removes", dropIns: []string{dropIn}, replaces: map[string]string{main: none}, removes: []string{dropIn}, want: "control-group"},
		{name: "a new drop-in, read before the other", dropIns: []string{dropIn},
			replaces: map[string]string{filepath.Join(dir, "vm@7.service.d/40-x.conf"): "[Service]\nKillMode=mixed\n"}, want: "process"},
		{name: "and after it", dropIns: []string{dropIn},
			replaces: map[string]string{filepath.Join(dir, "service.d/60-x.conf"): "[Service]\nKillMode=mixed\n"}, want: "mixed"},
		{name: "beside the drop-ins", replaces: map[string]string{filepath.Join(dir, "vm@7.service.d/60-x.conf.orig"): "[Service]\nKillMode=mixed\n"}, want: "process"},
		{name: "of another unit", replaces: map[string]string{filepath.Join(dir, "other.service"): none, filepath.Join(dir, "vm@8.service.d/60-x.conf"): "[Service]\nKillMode=mixed\n"}, want: "process"},
		{name: "unreadable", dropIns: []string{bad}, want: ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var changes []state.Change
			for to, content := range c.replaces {
				staged := filepath.Join(t.TempDir(), "staged")
				must(t, os.WriteFile(staged, []byte(content), 0o644))
				changes = append(changes, state.Change{Kind: state.KindReplace, To: to, Staged: staged})
			}
			for _, to := range c.removes {
				changes = append(changes, state.Change{Kind: state.KindRemove, To: to})
			}
			got, err := killMode(systemd.Unit{Name: "vm@7.service", Fragment: main, DropIns: c.dropIns}, changes)
			if got != c.want || (err != nil) != (c.want == "") {
				t.Errorf("%q, %v, want %q", got, err, c.want)
			}
		})
	}
}

// TestFileOfHigherPlace checks that the administrator's directory takes precedence.
func TestFileOfHigherPlace(t *testing.T) {
	staged := filepath.Join(t.TempDir(), "staged")
	must(t, os.WriteFile(staged, []byte("[Service]\nKillMode=process\n"), 0o644))
	vendor := filepath.Join(t.TempDir(), "x.service")
	must(t, os.WriteFile(vendor, []byte("[Service]\n"), 0o644))
	over := []state.Change{{Kind: state.KindReplace, To: "/etc/systemd/system/x.service", Staged: staged}}
	if got, err := killMode(systemd.Unit{Name: "x.service", Fragment: vendor}, over); got != "process" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	below := []state.Change{{Kind: state.KindReplace, To: "/usr/lib/systemd/system/x.service", Staged: staged}}
	if got, err := killMode(systemd.Unit{Name: "x.service", Fragment: vendor}, below); got != "control-group" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// Package generate derives systemd units from target files, at boot and at
// every daemon-reload.
//
// It reads target files (through package target, which trusts only what root
// alone can write) and writes below the one directory that systemd gives it
// and empties before each run; nothing here outlives a reload. For every
// valid target T there are
//
//	paths.target.wants/machinemon-verify@T.path      the chain's triggers
//	paths.target.wants/machinemon-swap@T.path
//	timers.target.wants/machinemon-fetch@T.timer     where a source is configured
//	paths.target.wants/machinemon-directive@T.path   the same
//	machinemon-fetch@T.timer.d/50-target.conf        its schedule
//	machinemon-fetch@T.service.d/50-target.conf      where the source's token is, if it has one
//	machinemon-fetch-full@T.service.d/50-target.conf the same
//	machinemon-swap@T.service.d/50-target.conf       what the swap may write
//	UNIT.d/50-machinemon-update.conf                 start after recovery
//
// A target that cannot be used gets none of it, and never costs another
// target its units.
package generate

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/target"
)

// Dir is where systemd keeps what generators make, the "normal" directory.
const Dir = "/run/systemd/generator"

// unitDir is where our package installs its units, on every Debian.
const unitDir = "/usr/lib/systemd/system"

// Run writes the units of all targets in dirs below out, the generator's
// "normal" directory. Each target that cannot be used is one line on log. The
// error is about out: units of valid targets could not be written.
func Run(dirs target.Dirs, out string, log io.Writer) error {
	names, err := dirs.Names()
	if err != nil {
		return err
	}
	var failed error
	for _, name := range names {
		t, err := load(dirs, name)
		if err != nil {
			fmt.Fprintln(log, err)
			continue
		}
		if err := write(dirs.Root, out, t); err != nil {
			failed = errors.Join(failed, fmt.Errorf("cannot generate units of target %s: %w", name, err))
		}
	}
	return failed
}

// load keeps a panic in the TOML parser, a foreign library that is fed
// whatever somebody wrote, from taking all other targets' units away.
func load(dirs target.Dirs, name string) (t *target.Target, err error) {
	defer func() {
		if p := recover(); p != nil {
			t, err = nil, fmt.Errorf("cannot use target %q: parsing it failed: %v", name, p)
		}
	}()
	return dirs.Load(name)
}

// unit is a file that the generator makes: a link to what our package installed,
// or a drop-in. Neither means that there is to be none.
type unit struct{ link, text string }

// units are the files of a target, by their names below the output directory.
func units(t *target.Target) map[string]unit {
	from := strings.Join(t.Fragments, ", ")
	m := map[string]unit{
		"machinemon-swap@" + t.Name + ".service.d/50-target.conf": {
			text: "# What an update of target " + t.Name + " replaces, from " + from + ".\n[Service]\n" + writable(t)},
		// recover runs before basic.target, which a unit without default
		// dependencies does not wait for; for all others the line changes nothing.
		// Targets may share a unit, so the text names none of them.
		t.Unit + ".d/50-machinemon-update.conf": {
			text: "# An update that a crash left open is undone before the program starts.\n[Unit]\nAfter=machinemon-update-recover.service\n"},
	}
	for _, step := range []string{"verify", "swap"} {
		m["paths.target.wants/machinemon-"+step+"@"+t.Name+".path"] = unit{link: unitDir + "/machinemon-" + step + "@.path"}
	}
	var timer, times, directives unit
	if t.Source.Type != "" {
		timer.link = unitDir + "/machinemon-fetch@.timer"
		times.text = "# The schedule of target " + t.Name + ", from " + from + ".\n[Timer]\n" + schedule(t)
		directives.link = unitDir + "/machinemon-directive@.path"
	}
	m["timers.target.wants/machinemon-fetch@"+t.Name+".timer"] = timer
	m["machinemon-fetch@"+t.Name+".timer.d/50-target.conf"] = times
	m["paths.target.wants/machinemon-directive@"+t.Name+".path"] = directives
	var secret unit
	if t.Source.TokenFile != "" {
		secret.text = "# What target " + t.Name + " asks its source with, from " + from + ".\n[Service]\n" + credential(t.Source.TokenFile)
	}
	for _, step := range []string{"fetch", "fetch-full"} {
		m["machinemon-"+step+"@"+t.Name+".service.d/50-target.conf"] = secret
	}
	return m
}

func write(root, out string, t *target.Target) error {
	all := units(t)
	for _, name := range slices.Sorted(maps.Keys(all)) { // the same error each time
		u := all[name]
		if u == (unit{}) {
			continue
		}
		file := filepath.Join(out, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if u.link == "" {
			if err := os.WriteFile(file, []byte(u.text), 0o644); err != nil {
				return err
			}
			continue
		}
		if _, err := os.Stat(root + u.link); err != nil {
			return fmt.Errorf("%s is not in %s", filepath.Base(u.link), unitDir)
		}
		if err := os.Symlink(u.link, file); err != nil {
			return err
		}
	}
	return nil
}

// Pending tells whether the target file says something that systemd was not told
// yet: out is not what [Run] would make of it. That is so from an edit to the next
// daemon-reload, and also when a directory that it names has appeared since: which
// directories a swap may write depends on it.
func Pending(out string, t *target.Target) (bool, error) {
	for name, want := range units(t) {
		file := filepath.Join(out, name)
		var got unit
		var err error
		if want.link != "" {
			got.link, err = os.Readlink(file)
		} else {
			var text []byte
			text, err = os.ReadFile(file)
			got.text = string(text)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("cannot tell what the generator made of target %s: %w", t.Name, err)
		}
		if got.link != want.link || settings(got.text) != settings(want.text) {
			return true, nil
		}
	}
	return false, nil
}

// settings leaves out the comments, in which the names of all fragments are.
func settings(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// schedule spreads the checks: each waits up to a tenth of the interval longer,
// at most half an hour, and is rolled anew every time. A delay derived from the
// machine's ID would gather cloned machines.
func schedule(t *target.Target) string {
	every := int(t.CheckEvery.Seconds())
	return fmt.Sprintf("OnUnitInactiveSec=%ds\nRandomizedDelaySec=%ds\n", every, min(max(every/10, 1), 1800))
}

// credential has systemd, as root, read the token for the fetcher, who has no
// other way to it. In place of a file that is not there comes what is no token:
// the fetcher says so, where systemd would only say 243/CREDENTIALS. The path
// needs no quotes: target refuses what would.
func credential(path string) string {
	return "SetCredential=token:no such file\nLoadCredential=token:" + path + "\n"
}

// writable lists the directories of all files that a swap writes. Backups and
// temporaries are beside them. The "-" lets the swapper start without one and
// report it, where systemd would only say 226/NAMESPACE.
func writable(t *target.Target) string {
	var b strings.Builder
	for _, dir := range t.Directories() {
		b.WriteString("ReadWritePaths=" + quote("-"+dir) + "\n")
	}
	return b.String()
}

// quote makes one word of systemd.syntax(7) without specifiers. The path has
// no control characters: target refuses them.
func quote(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`).Replace(path) + `"`
}

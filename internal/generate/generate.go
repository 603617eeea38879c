// Package generate generates systemd units from target files, at boot and at each
// daemon-reload.
//
// It reads target files with package target, which trusts only files that root alone can
// write. It writes below the directory that systemd names, and empties before each run.
// For each valid target T it writes
//
//	paths.target.wants/machinemon-verify@T.path      the chain's triggers
//	paths.target.wants/machinemon-swap@T.path
//	timers.target.wants/machinemon-fetch@T.timer     if a source is configured
//	paths.target.wants/machinemon-directive@T.path   the same
//	multi-user.target.wants/machinemon-inform@T.service   tells at boot how T fares
//	machinemon-fetch@T.timer.d/50-target.conf        the schedule of the checks
//	machinemon-fetch@T.service.d/50-target.conf      the fetcher's account, and the source's secrets
//	machinemon-fetch-full@T.service.d/50-target.conf the same
//	machinemon-unlock@T.service.d/50-target.conf     the fetcher's account
//	machinemon-verify@T.service.d/50-target.conf     the verifier's account
//	machinemon-baseline@T.service.d/50-target.conf   the gate's account, its network, the socket for commands, and the files of probes
//	machinemon-health-gate@T.service.d/50-target.conf the same
//	machinemon-command@T.service.d/50-target.conf    the account of the target's commands
//	machinemon-command@T.socket.d/50-target.conf     the gate's account, which alone asks for them
//	machinemon-notify@T.service.d/50-target.conf     the sender's account, and its token
//	machinemon-swap@T.service.d/50-target.conf       the directories that the swap writes
//	UNIT.d/50-machinemon-update.conf                 start after recovery
//
// A target that cannot be used gets no units, and does not affect other targets.
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

// Dir is the "normal" output directory of generators, see systemd.generator(7).
const Dir = "/run/systemd/generator"

// unitDir is the directory into which our package installs its units.
const unitDir = "/usr/lib/systemd/system"

// Run writes the units of all targets in dirs below out, the generator's "normal"
// directory. It logs one line for each target that cannot be used. It returns an error if
// it cannot write the units of a valid target.
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

// load loads a target, and turns a panic of the TOML library into an error, so that one
// malformed file does not keep the other targets from their units.
func load(dirs target.Dirs, name string) (t *target.Target, err error) {
	defer func() {
		if p := recover(); p != nil {
			t, err = nil, fmt.Errorf("cannot use target %q: parsing it failed: %v", name, p)
		}
	}()
	return dirs.Load(name)
}

// output is a file that the generator writes: a link to an installed unit, or the text of
// a drop-in. The zero output means that the file must not exist.
type output struct{ link, text string }

// units returns the files of a target, by their paths below the output directory.
func units(t *target.Target) map[string]output {
	from := strings.Join(t.Fragments, ", ")
	m := map[string]output{
		"machinemon-swap@" + t.Name + ".service.d/50-target.conf": {
			text: "# The directories that an update of target " + t.Name + " writes, from " + from + ".\n[Service]\n" + writable(t)},
	}
	// Recovery runs before basic.target. Only units without default dependencies
	// need this line, since others start after basic.target. The text does not name
	// the target, because targets may share a unit.
	for _, unit := range t.Units() {
		m[unit+".d/50-machinemon-update.conf"] = output{
			text: "# After a crash, recovery undoes an unfinished update before the program starts.\n[Unit]\nAfter=machinemon-update-recover.service\n"}
	}
	for _, step := range []string{"verify", "swap"} {
		m["paths.target.wants/machinemon-"+step+"@"+t.Name+".path"] = output{link: unitDir + "/machinemon-" + step + "@.path"}
	}
	m["multi-user.target.wants/machinemon-inform@"+t.Name+".service"] = output{link: unitDir + "/machinemon-inform@.service"}
	var timer, times, directives output
	if t.Source.Type != "" {
		timer.link = unitDir + "/machinemon-fetch@.timer"
		times.text = "# The schedule of target " + t.Name + ", from " + from + ".\n[Timer]\n" + schedule(t)
		directives.link = unitDir + "/machinemon-directive@.path"
	}
	m["timers.target.wants/machinemon-fetch@"+t.Name+".timer"] = timer
	m["machinemon-fetch@"+t.Name+".timer.d/50-target.conf"] = times
	m["paths.target.wants/machinemon-directive@"+t.Name+".path"] = directives
	for unit, text := range accounts(t) {
		step, kind, _ := strings.Cut(unit, ".")
		m["machinemon-"+step+"@"+t.Name+"."+kind+".d/50-target.conf"] = output{text: "# What only target " + t.Name + " has, from " + from + ".\n" + text}
	}
	return m
}

// accounts returns the drop-ins that give each step of the target an account that no
// other target has, and what is for that account only.
func accounts(t *target.Target) map[string]string {
	user := func(step string) string { return "[Service]\nUser=" + target.Account(step, t.Name) + "\n" }
	fetch, gate, notify := user("fetch"), user("gate"), user("notify")
	if t.Notify != nil && t.Notify.TokenFile != "" {
		notify += credential(target.Credential(t.Notify.TokenFile), t.Notify.TokenFile)
	}
	if t.Source.TokenFile != "" {
		fetch += credential("token", t.Source.TokenFile)
	}
	for _, file := range t.ProbeFiles() {
		gate += credential(target.Credential(file), file)
	}
	if t.LeavesLoopback() {
		gate += "IPAddressAllow=any\n"
	}
	if t.Source.ProxyLoginFile != "" {
		fetch += credential("proxy-login", t.Source.ProxyLoginFile)
	}
	if t.HasCommands() {
		gate += "[Unit]\nWants=machinemon-command@" + t.Name + ".socket\nAfter=machinemon-command@" + t.Name + ".socket\n"
	}
	return map[string]string{
		"fetch.service": fetch, "fetch-full.service": fetch, "unlock.service": user("fetch"),
		// The fetcher's group can read and remove bundles.
		"verify.service":   user("verify") + "SupplementaryGroups=\nSupplementaryGroups=" + target.Account("fetch", t.Name) + "\n",
		"baseline.service": gate, "health-gate.service": gate,
		"command.service": user("command"), "notify.service": notify,
		"command.socket": "[Socket]\nSocketUser=" + target.Account("gate", t.Name) + "\n",
	}
}

func write(root, out string, t *target.Target) error {
	all := units(t)
	for _, name := range slices.Sorted(maps.Keys(all)) { // sorted, so that errors repeat
		u := all[name]
		if u == (output{}) {
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

// Pending reports whether the files below out differ from those that [Run] would write
// for t. They do from an edit of the target file until the next daemon-reload, and if a
// directory that the target names has appeared since the last one: the units list it.
func Pending(out string, t *target.Target) (bool, error) {
	for name, want := range units(t) {
		file := filepath.Join(out, name)
		var got output
		var err error
		if want.link != "" {
			got.link, err = os.Readlink(file)
		} else {
			var text []byte
			text, err = os.ReadFile(file)
			got.text = string(text)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("cannot read the generated units of target %s: %w", t.Name, err)
		}
		if got.link != want.link || settings(got.text) != settings(want.text) {
			return true, nil
		}
	}
	return false, nil
}

// settings returns text without comments, which contain the names of all fragments.
func settings(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// schedule returns the timer's settings. Each check is delayed by a new random time, up
// to a tenth of the interval and at most half an hour, which spreads the checks of many
// machines. A delay derived from the machine's ID would be the same on cloned machines. There
// is a check in each window, too; then no delay is longer than half of the window.
func schedule(t *target.Target) string {
	every := int(t.CheckEvery.Seconds())
	delay := min(max(every/10, 1), 1800)
	if t.Window.Always() {
		return fmt.Sprintf("OnUnitInactiveSec=%ds\nRandomizedDelaySec=%ds\n", every, delay)
	}
	// What the interval finds outside of the window is installed in it.
	return fmt.Sprintf("OnUnitInactiveSec=%ds\nOnCalendar=%s\nRandomizedDelaySec=%ds\n", every, t.Window.OnCalendar(), min(delay, int(t.Window.Length().Seconds())/2))
}

// credential returns settings that make systemd read a file as root, since the step may not
// read it. If the file is missing, the step gets [target.NoFile] as its content and reports
// that; without SetCredential= systemd would only fail the unit with 243/CREDENTIALS.
// Package target refuses paths that would need quotes.
func credential(id, path string) string {
	return "SetCredential=" + id + ":" + target.NoFile + "\nLoadCredential=" + id + ":" + path + "\n"
}

// writable returns the settings for all directories of files that a swap writes. Backups
// and temporary files are in them, too. With "-", the swapper can start if a directory is
// missing, and report it; systemd would only fail the unit with 226/NAMESPACE.
func writable(t *target.Target) string {
	var b strings.Builder
	for _, dir := range t.Directories() {
		b.WriteString("ReadWritePaths=" + quote("-"+dir) + "\n")
	}
	return b.String()
}

// quote quotes a path as one word of systemd.syntax(7), without specifiers. Package
// target refuses paths with control characters.
func quote(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`).Replace(path) + `"`
}

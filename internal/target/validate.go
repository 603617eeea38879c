package target

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/calendar"
	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/pattern"
)

// ownUnit matches the units of machinemon-update: if the updater updated itself, the swap
// would kill it midway. It does not match those of MachineMon's agent and server.
var ownUnit = pattern.New(`^machinemon-(update|fetch|fetch-full|verify|swap|preflight|baseline|hook|data|health-gate|commit|rollback|deadline|directive|inform|notify|inhibit|unlock)([@.-].*)?\.service$`)

// A validation turns merged settings into a Target and keeps the first problem that it
// finds.
type validation struct {
	settings settings
	dirs     Dirs
	check    checker
	err      *ConfigError
}

func (v *validation) target(name string, files []string) (*Target, *ConfigError) {
	unit, also := v.units()
	t := &Target{
		Name:              name,
		Description:       cmp.Or(v.text("description"), name),
		Unit:              unit,
		Also:              also,
		AutoUpdateEnabled: v.boolean("auto_update_enabled"),
		CheckEvery:        v.seconds("auto_update_check_every_seconds"),
		Window:            v.window(),
		After:             v.texts("schedule.after"),
		Inhibit:           v.texts("schedule.inhibit"),

		ShutdownInhibitors: v.boolean("schedule.shutdown_inhibitors"),
		FleetLock:          v.fleetLock(),

		Source: v.source(),
		Trust: Trust{
			Mode:                 v.trustMode(),
			Root:                 v.trustFile("trust.root", TrustTUF, name+".root.json"),
			Key:                  v.trustFile("trust.key", TrustSigned, name+".key"),
			Product:              v.text("trust.product"),
			AllowUnauthenticated: v.boolean("trust.allow_unauthenticated"),
		},
		Install:      v.installs(),
		Listing:      v.listing(),
		Snapshot:     v.texts("rollback.snapshot"),
		SnapshotMax:  v.integer("rollback.snapshot_max_bytes"),
		StopFirst:    v.boolean("rollback.stop"),
		KeepPrevious: v.boolean("rollback.keep_previous"),
		Hooks:        v.hooks(),
		Fragments:    files,
		check:        v.check,
		where:        v.settings,
	}
	if slices.Contains(t.After, name) {
		v.problem("schedule.after", "names the target itself", "remove it")
	}
	v.authenticated(t)
	v.signed(t)
	v.snapshot(t)
	t.Health = v.health(t.Install)
	t.Notify = v.notify()
	v.kind(t)
	if v.err != nil {
		if v.err.File == "" {
			v.err.File = files[0]
		}
		return nil, v.err
	}
	return t, nil
}

// value returns the value written at path, or the default of its key. Validation fails if
// the value is not one that the key's row allows.
func value[T any](v *validation, path string) T {
	k := row(path)
	at, written := v.settings[path]
	if !written {
		if hint, must := k.otherwise.(required); must {
			v.missing(path, string(hint))
		}
		otherwise, _ := k.otherwise.(T)
		return otherwise
	}
	if !k.valid(at.value) {
		v.bad(path)
	} else if k.rootOnly {
		v.rootOnly(path, at.value)
	}
	return at.value.(T)
}

func (v *validation) text(path string) string    { return value[string](v, path) }
func (v *validation) integer(path string) int64  { return value[int64](v, path) }
func (v *validation) boolean(path string) bool   { return value[bool](v, path) }
func (v *validation) texts(path string) []string { return value[[]string](v, path) }

func (v *validation) seconds(path string) time.Duration {
	return time.Duration(v.integer(path)) * time.Second
}

func (v *validation) window() calendar.Window {
	w, err := calendar.Parse(v.text("schedule.window"))
	if err != nil { // it is not written, or refused already
		return calendar.Window{}
	}
	return w
}

func (v *validation) fleetLock() FleetLock {
	l := FleetLock{URL: v.text("schedule.fleetlock_url"), Group: v.text("schedule.fleetlock_group")}
	if l.URL != "" {
		return l
	}
	if v.written("schedule.fleetlock_group") {
		v.problem("schedule.fleetlock_group", "stands without schedule.fleetlock_url", "remove it, or name the server of the lock")
	}
	return FleetLock{}
}

func (v *validation) mode(path string) *fs.FileMode {
	n, err := strconv.ParseUint(v.text(path), 8, 32)
	if err != nil {
		return nil // not written, or already refused
	}
	mode := fs.FileMode(n)
	return &mode
}

// elements returns the paths of the tables in the list at path.
func (v *validation) elements(path string) []string {
	var all []string
	for v.written(fmt.Sprintf("%s[%d]", path, len(all))) {
		all = append(all, fmt.Sprintf("%s[%d]", path, len(all)))
	}
	if !row(path).valid(len(all)) {
		v.bad(path)
	}
	return all
}

func (v *validation) written(path string) bool {
	_, ok := v.settings[path]
	return ok
}

// row returns the row of the key at path. It panics if there is none: all paths are
// written in this package.
func row(path string) key {
	k, ok := keyByName[withoutIndex(path)]
	if !ok {
		panic("target: no key " + path)
	}
	return k
}

// bad reports that the value at path is not an allowed one.
func (v *validation) bad(path string) { v.problem(path, row(path).problem(), "") }

// missing reports that the key at path is missing from its table.
func (v *validation) missing(path, hint string) {
	table := path[:max(strings.LastIndex(path, "."), 0)]
	v.fault(v.settings[table], path, "is missing; it "+row(path).problem(), hint)
}

func (v *validation) problem(path, problem, hint string) {
	v.fault(v.settings[path], path, problem, hint)
}

func (v *validation) fault(at setting, path, problem, hint string) {
	if v.err == nil {
		v.err = &ConfigError{File: at.file, Line: at.line, Key: withoutIndex(path), Problem: problem, Hint: hint}
	}
}

// withoutIndex returns the name of the key at path.
func withoutIndex(path string) string {
	list, element, _ := strings.Cut(path, "[") // a list contains no other list of tables
	_, name, _ := strings.Cut(element, "]")
	return list + name
}

// rootOnly checks that only root can write the file at path, or the files that the command
// there runs. It accepts a file that does not exist yet, which harms nothing, and a file
// that this process may not look at, and so cannot use: root, which begins each attempt,
// checks it.
func (v *validation) rootOnly(path string, value any) {
	var files []string
	switch value := value.(type) {
	case string:
		files = []string{value}
	case []string:
		files = v.check.commandFiles(value)
	}
	if path == "health.version_command" && len(files) > 0 && v.programOfUser(files[0]) {
		files = files[1:]
	}
	for _, file := range files {
		if file == "" {
			continue
		}
		if err := v.check.rootOnly(file); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			v.problem(path, err.Error(), rootOnlyHint)
		}
	}
}

func (v *validation) installs() []Install {
	var installs []Install
	for _, at := range v.elements("install") {
		i := Install{
			From:     v.text(at + ".from"),
			To:       v.text(at + ".to"),
			Mode:     v.mode(at + ".mode"),
			Owner:    unlessEmpty(v.text(at + ".owner")),
			Group:    unlessEmpty(v.text(at + ".group")),
			Optional: v.boolean(at + ".optional"),
			Keep:     v.texts(at + ".keep"),
			Releases: v.text(at + ".releases"),
			names:    v.archNames(),
		}
		i.Tree = strings.HasSuffix(i.From, "/")
		if !i.Tree && v.written(at+".keep") {
			v.bad(at + ".keep")
		}
		if v.check.ofUser(i.To) {
			v.ofUser(at, i)
		}
		if !durable.InHome(i.To) {
			v.destination(at+".to", i.To)
		}
		if i.Tree {
			v.treeDestination(at+".to", i.To)
		}
		if v.written(at + ".releases") {
			v.releases(at, i)
		}
		for _, other := range installs {
			if other.To == i.To {
				v.problem(at+".to", "is installed twice", "")
				continue
			}
			for _, p := range other.spots() {
				for _, own := range i.spots() {
					if p.tree && within(own.path, p.path) || own.tree && within(p.path, own.path) {
						v.problem(at+"."+own.key, "overlaps "+p.path+", which is installed, too", "")
					}
				}
			}
		}
		installs = append(installs, i)
	}
	return installs
}

// releases checks the key install.releases.
func (v *validation) releases(install string, i Install) {
	at := install + ".releases"
	switch {
	case !i.Tree:
		v.problem(at, "stands beside a file", "the name of a directory in from ends with /")
	case v.written(install + ".keep"):
		v.problem(at, "stands beside keep", "each release has a directory of its own, so keep the data elsewhere, such as in /var/lib")
	case within(i.To, i.Releases), within(i.Releases, i.To):
		v.problem(at, "overlaps to, which is the link to one of the releases", `as in to = "/opt/NAME/current" and releases = "/opt/NAME/releases"`)
	}
	v.destination(at, i.Releases)
	v.treeDestination(at, i.Releases)
}

// A spot is a path at which an install has something: a tree has all that is below.
type spot struct {
	key, path string
	tree      bool
}

// spots returns the spots of an install.
func (i Install) spots() []spot {
	if i.Releases == "" {
		return []spot{{"to", i.To, i.Tree}}
	}
	return []spot{{"to", i.To, false}, {"releases", i.Releases, true}}
}

// treeDestination refuses a directory that has more below it than one program.
func (v *validation) treeDestination(path, dir string) {
	if what := aroundForbidden(dir); what != "" {
		v.problem(path, "must not contain "+what, "")
	}
	if slices.Contains(sharedDirs, dir) {
		v.problem(path, "is a directory of many programs, which a release would replace", "name a directory of its own, such as /opt/NAME")
	}
}

func unlessEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// ofUser checks an install in a directory of the unit's user, whose process replaces the
// program there.
func (v *validation) ofUser(at string, i Install) {
	where := "/home"
	if !durable.InHome(i.To) {
		where = "a user's directory"
	}
	if i.Tree {
		v.problem(at+".to", "must not be a directory in "+where, ownHint(i.To))
	}
	if unit := v.text("unit"); unit == "" || IsTemplate(unit) {
		v.problem(at+".to", fmt.Sprintf("must not be in %s beside unit = %q", where, unit), ownHint(i.To))
	}
	for _, key := range []string{"mode", "owner", "group", "optional"} {
		if v.written(at + "." + key) {
			v.problem(at+"."+key, "means nothing for a file in "+where+", which keeps what it has", "remove it")
		}
	}
}

// programOfUser reports whether the target installs this file in a user's directory. As a
// version_command, only its new file is run, which root has checked.
func (v *validation) programOfUser(file string) bool {
	return v.check.ofUser(file) && slices.ContainsFunc(v.elements("install"), func(at string) bool { return v.text(at+".to") == file })
}

// destination checks a place to write as far as that needs no look at the machine.
// CheckDestinations checks the rest.
func (v *validation) destination(path, file string) {
	where := forbidden(file)
	switch {
	case where == "":
	case strings.HasSuffix(path, ".to") && (where == "/home" || where == "/root"):
		v.problem(path, "must not be in "+where, ownHint(file))
	default:
		v.problem(path, "must not be in "+where, "")
	}
}

// ownHint says what takes the place of a program in a home. Root does not write there, and
// what it installs must not be the user's to replace.
func ownHint(file string) string {
	program := "/usr/local/bin/" + filepath.Base(file)
	return fmt.Sprintf("write to = %q here and ExecStart=%s in the unit, which may keep its User=; root installs nothing where a user can write", program, program)
}

package target

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/calendar"
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

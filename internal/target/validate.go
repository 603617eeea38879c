package target

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Defaults of the target file's keys.
const (
	defaultCheckEvery   = 3600 // seconds
	defaultTimeout      = 30   // seconds
	defaultSettle       = 5    // seconds
	defaultExpectStatus = 200
	defaultSnapshotMax  = 1 << 30 // bytes
	largestSnapshotMax  = 1 << 40
)

var (
	// systemd.unit(5): the characters of a unit name; a template must be
	// instantiated.
	unitName = regexp.MustCompile(`^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]+)?\.service$`)

	// Our own units: an update of the updater by itself would be killed
	// halfway. The MachineMon agent's and server's are none of them.
	ownUnit = regexp.MustCompile(`^machinemon-(update|fetch|fetch-full|verify|swap|preflight|baseline|hook|data|health-gate|commit|rollback|deadline|directive)([@.-].*)?\.service$`)

	product     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+_~-]{0,63}$`)
	octalMode   = regexp.MustCompile(`^0?[0-7]{3}$`)
	groupName   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$`)
	placeholder = regexp.MustCompile(`\{(os|arch|version|number)\}`)
)

// A validation turns merged fragments into a Target and keeps the first
// problem that it meets.
type validation struct {
	merged
	dirs  Dirs
	check checker
	err   *ConfigError
}

func (v *validation) target(name string, files []string) (*Target, *ConfigError) {
	k := &v.keys
	t := &Target{
		Name:              name,
		Description:       valueOr(k.Description, name),
		Unit:              v.unit(),
		AutoUpdateEnabled: valueOr(k.AutoUpdateEnabled, false),
		CheckEvery:        v.seconds("auto_update_check_every_seconds", k.AutoUpdateCheckEverySecond, defaultCheckEvery, 60, 31536000),
		Source:            v.source(),
		Trust: Trust{
			Mode:                 v.trustMode(),
			Root:                 v.trustRoot(name),
			Product:              valueOr(k.Trust.Product, ""),
			AllowUnauthenticated: valueOr(k.Trust.AllowUnauthenticated, false),
		},
		Install:     v.installs(),
		Listing:     v.listing(),
		Snapshot:    valueOr(k.Rollback.Snapshot, nil),
		SnapshotMax: v.snapshotMax(),
		StopFirst:   valueOr(k.Rollback.Stop, false),
		Fragments:   files,
		check:       v.check,
		where:       v.where,
	}
	if n := len([]rune(t.Description)); n == 0 || n > 200 || hasControl(t.Description) {
		v.bad("description")
	}
	if k.Trust.Product != nil && !product.MatchString(t.Trust.Product) {
		v.bad("trust.product")
	}
	v.authenticated(t)
	v.snapshot(t)
	t.Hooks = v.hooks()
	t.Health = v.health(t.Install)
	if v.err != nil {
		if v.err.File == "" {
			v.err.File = files[0]
		}
		return nil, v.err
	}
	return t, nil
}

// bad reports that the value at path is not one of those allowed.
func (v *validation) bad(path string) {
	v.problem(path, keyByName[withoutIndex(path)].problem(), "")
}

// missing reports that the table at path lacks the key name.
func (v *validation) missing(path, name, hint string) {
	k := keyByName[dot(withoutIndex(path), name)]
	v.fault(v.where[path], k.name, "is missing; it "+k.problem(), hint)
}

func (v *validation) problem(path, problem, hint string) {
	v.fault(v.where[path], withoutIndex(path), problem, hint)
}

func (v *validation) fault(at position, key, problem, hint string) {
	if v.err == nil {
		v.err = &ConfigError{File: at.file, Line: at.line, Key: key, Problem: problem, Hint: hint}
	}
}

var elementIndex = regexp.MustCompile(`\[\d+\]`)

func withoutIndex(path string) string { return elementIndex.ReplaceAllString(path, "") }

func (v *validation) unit() string {
	unit := v.keys.Unit
	switch {
	case unit == nil:
		v.missing("", "unit", "is the package installed that brings this target?")
		return ""
	case !unitName.MatchString(*unit) || len(*unit) > 255: // UNIT_NAME_MAX of systemd
		v.bad("unit")
	case ownUnit.MatchString(*unit):
		v.problem("unit", "must not be a unit of machinemon-update itself", "")
	}
	return *unit
}

func (v *validation) seconds(path string, value *int64, or, low, high int64) time.Duration {
	n := valueOr(value, or)
	if n < low || n > high {
		v.bad(path)
		return 0
	}
	return time.Duration(n) * time.Second
}

func (v *validation) installs() []Install {
	list := valueOr(v.keys.Install, nil)
	if len(list) == 0 || len(list) > 64 {
		v.bad("install")
	}
	var installs []Install
	for n, f := range list {
		at := fmt.Sprintf("install[%d]", n)
		if f.From == nil {
			v.missing(at, "from", "")
			break
		}
		if f.To == nil {
			v.missing(at, "to", "")
			break
		}
		i := Install{From: *f.From, To: *f.To, Owner: f.Owner, Group: f.Group, Optional: valueOr(f.Optional, false)}
		if !entryName(i.From) {
			v.bad(at + ".from")
		}
		v.destination(at+".to", i.To)
		if slices.ContainsFunc(installs, func(other Install) bool { return other.To == i.To }) {
			v.problem(at+".to", "is installed twice", "")
		}
		if f.Mode != nil {
			i.Mode = v.mode(at+".mode", *f.Mode)
		}
		if i.Owner != nil && *i.Owner != "root" && *i.Owner != "0" {
			v.bad(at + ".owner")
		}
		if i.Group != nil && !groupName.MatchString(*i.Group) {
			v.bad(at + ".group")
		}
		installs = append(installs, i)
	}
	return installs
}

func (v *validation) mode(path, value string) *fs.FileMode {
	n, err := strconv.ParseUint(value, 8, 32)
	if err != nil || !octalMode.MatchString(value) || n&0o022 != 0 || n&0o400 == 0 {
		v.bad(path)
		return nil
	}
	mode := fs.FileMode(n)
	return &mode
}

// entryName tells whether a release can hold a file by this name.
func entryName(from string) bool {
	plain := placeholder.ReplaceAllString(from, "x")
	return fs.ValidPath(plain) && plain != "." && len(from) <= 255 &&
		!strings.ContainsAny(plain, `{}\`) && !hasControl(plain) && from[0] != '-'
}

// destination checks what can be known of a place to write without looking at
// the machine; CheckDestinations knows the rest.
func (v *validation) destination(path, file string) {
	if !cleanPath(file) {
		v.bad(path)
	} else if where := forbidden(file); where != "" {
		v.problem(path, "must not be in "+where, "")
	}
}

// cleanPath tells whether path is absolute, names a file, and is written in
// the one way that can be compared.
func cleanPath(path string) bool {
	return filepath.IsAbs(path) && filepath.Clean(path) == path && path != "/" && len(path) < 4096 && !hasControl(path)
}

// hasControl tells whether s would not print as one line.
func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' })
}

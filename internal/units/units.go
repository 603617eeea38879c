// Package units finds out which units run the program of a target, and which of them rest
// until something starts them.
//
// A unit that is not active is stopped on purpose or idle. It is idle if a timer, socket or
// path unit waits to start it, or if it never stays active (Type=oneshot without
// RemainAfterExit=yes). An update does not start an idle unit.
package units

import (
	"context"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// Reader is what this package needs of systemd; *systemd.Conn implements it.
type Reader interface {
	Unit(ctx context.Context, name string) (systemd.Unit, error)
	Alive(ctx context.Context, patterns ...string) ([]string, error)
}

// Names returns the names of the target's units. Of a template they are the instances that
// run now, or those that are about to; if there is none, they are none, as for a target
// without a unit.
func Names(ctx context.Context, m Reader, t *target.Target) ([]string, error) {
	if !t.Template() {
		return t.Units(), nil
	}
	names, err := m.Alive(ctx, strings.Replace(t.Unit, "@.", "@*.", 1))
	slices.Sort(names)
	return names, err
}

// Idle reports whether the unit is idle now.
func Idle(ctx context.Context, m Reader, u systemd.Unit) (bool, error) {
	if u.Load != "loaded" || u.Passes() {
		return u.Load == "loaded", nil
	}
	if u.Active != "inactive" {
		return false, nil
	}
	starters, err := Starters(ctx, m, u)
	return len(starters) > 0, err
}

// Starters returns the active units that may start a unit.
func Starters(ctx context.Context, m Reader, u systemd.Unit) (names []string, err error) {
	for _, name := range u.Triggers {
		by, err := m.Unit(ctx, name)
		if err != nil {
			return nil, err
		}
		if by.Active == "active" {
			names = append(names, name)
		}
	}
	return names, nil
}

// Woken reports whether a probe of the target starts the idle unit, because its socket is
// waiting for a connection. Of several units, another one may answer instead.
func Woken(ctx context.Context, m Reader, t *target.Target, u systemd.Unit) (bool, error) {
	if len(t.Also) > 0 || t.Template() {
		return false, nil
	}
	starters, err := Starters(ctx, m, u)
	socket := func(name string) bool { return strings.HasSuffix(name, ".socket") }
	connects := func(p target.Probe) bool { return p.Connects() && !p.Foreign }
	return slices.ContainsFunc(starters, socket) && slices.ContainsFunc(t.Health.Probes, connects), err
}

// States returns what the policy must know of the target's units.
func States(ctx context.Context, m Reader, t *target.Target) (all []policy.Unit, err error) {
	names, err := Names(ctx, m, t)
	if err != nil {
		return nil, err
	}
	if t.Template() && len(names) == 0 {
		return []policy.Unit{{Name: t.Unit, Template: true}}, nil
	}
	unjudged := !t.HasCommands()
	for _, name := range names {
		u, err := m.Unit(ctx, name)
		if err != nil {
			return nil, err
		}
		one := policy.Unit{Name: u.Name, Load: u.Load, Active: u.Active, Queued: u.Job != 0}
		if one.Idle, err = Idle(ctx, m, u); err != nil {
			return nil, err
		}
		if one.Idle {
			one.Working = u.Active != "inactive" && u.Active != "failed" && !strings.HasPrefix(u.Sub, "auto-restart")
			woken, err := Woken(ctx, m, t, u)
			if err != nil {
				return nil, err
			}
			unjudged = unjudged && !woken
		}
		unjudged = unjudged && one.Idle // a unit that runs can be watched
		one.Unreloadable = t.Reload && !u.CanReload && u.Load == "loaded"
		all = append(all, one)
	}
	for i := range all {
		all[i].Unjudged = unjudged
	}
	return all, nil
}

// First returns the first unit of the target, for example for its command; the zero Unit if
// there is none.
func First(ctx context.Context, m interface {
	Unit(ctx context.Context, name string) (systemd.Unit, error)
}, t *target.Target) (systemd.Unit, error) {
	if t.Unit == "" || t.Template() {
		return systemd.Unit{}, nil // instances may differ
	}
	return m.Unit(ctx, t.Unit)
}

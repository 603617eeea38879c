package units

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// fake is a systemd with these units.
type fake map[string]systemd.Unit

func (f fake) Unit(_ context.Context, name string) (systemd.Unit, error) {
	u, ok := f[name]
	if !ok {
		return systemd.Unit{Name: name, Load: "not-found", Active: "inactive"}, nil
	}
	u.Name = name
	if u.Load == "" {
		u.Load = "loaded"
	}
	return u, nil
}

// Alive knows patterns with one star.
func (f fake) Alive(_ context.Context, patterns ...string) (names []string, err error) {
	before, after, _ := strings.Cut(patterns[0], "*")
	for name, u := range f {
		if strings.HasPrefix(name, before) && strings.HasSuffix(name, after) && u.Active == "active" {
			names = append(names, name)
		}
	}
	return names, nil
}

// TestStates: what the policy learns of units, of which the names of most say what they
// are.
func TestStates(t *testing.T) {
	on := systemd.Unit{Active: "active"}
	by := func(trigger string) systemd.Unit {
		return systemd.Unit{Active: "inactive", Triggers: []string{trigger}}
	}
	machine := fake{
		"up.service": on, "down.service": {Active: "inactive"}, "failed.service": {Active: "failed", Triggers: []string{"a.timer"}},
		"a.timer": on, "a.path": on, "a.socket": on, "off.timer": {Active: "inactive"},
		"timed.service": by("a.timer"), "pathed.service": by("a.path"), "socketed.service": by("a.socket"), "untimed.service": by("off.timer"),
		"oneshot.service": {Active: "inactive", Type: "oneshot"}, "remains.service": {Active: "inactive", Type: "oneshot", RemainAfterExit: true},
		"works.service": {Active: "activating", Sub: "start", Type: "oneshot"}, "loops.service": {Active: "activating", Sub: "auto-restart", Type: "oneshot"},
		"gone.service": {Load: "not-found", Type: "oneshot"}, "reloads.service": {Active: "active", CanReload: true},
		"x@1.service": on, "x@2.service": on, "x@3.service": {Active: "inactive"}, "xy@1.service": on,
	}
	version := target.Health{VersionCommand: []string{"/opt/x", "--version"}}
	connects := target.Health{Probes: []target.Probe{{TCP: "127.0.0.1:1"}}}
	state := func(name, active string, more policy.Unit) policy.Unit {
		more.Name, more.Load, more.Active = name, "loaded", active
		return more
	}
	for _, c := range []struct {
		name   string
		target target.Target
		want   []policy.Unit
	}{
		{"none", target.Target{}, nil},
		{"up", target.Target{Unit: "up.service"}, []policy.Unit{state("up.service", "active", policy.Unit{})}},
		{"several", target.Target{Unit: "up.service", Also: []string{"down.service"}}, []policy.Unit{
			state("up.service", "active", policy.Unit{}), state("down.service", "inactive", policy.Unit{})}},
		{"failed, with a timer", target.Target{Unit: "failed.service"}, []policy.Unit{state("failed.service", "failed", policy.Unit{})}},
		{"a timer's", target.Target{Unit: "timed.service", Health: version}, []policy.Unit{state("timed.service", "inactive", policy.Unit{Idle: true})}},
		{"a path unit's", target.Target{Unit: "pathed.service", Health: version}, []policy.Unit{state("pathed.service", "inactive", policy.Unit{Idle: true})}},
		{"a timer's, without a command", target.Target{Unit: "timed.service", Health: connects}, []policy.Unit{state("timed.service", "inactive", policy.Unit{Idle: true, Unjudged: true})}},
		{"a socket's, without a command", target.Target{Unit: "socketed.service", Health: connects}, []policy.Unit{state("socketed.service", "inactive", policy.Unit{Idle: true})}},
		{"a socket's, without a probe", target.Target{Unit: "socketed.service"}, []policy.Unit{state("socketed.service", "inactive", policy.Unit{Idle: true, Unjudged: true})}},
		{"a timer's and one that runs", target.Target{Unit: "up.service", Also: []string{"timed.service"}}, []policy.Unit{
			state("up.service", "active", policy.Unit{}), state("timed.service", "inactive", policy.Unit{Idle: true})}},
		{"two of sockets", target.Target{Unit: "socketed.service", Also: []string{"timed.service"}, Health: connects}, []policy.Unit{
			state("socketed.service", "inactive", policy.Unit{Idle: true, Unjudged: true}), state("timed.service", "inactive", policy.Unit{Idle: true, Unjudged: true})}},
		{"its timer is stopped, too", target.Target{Unit: "untimed.service", Health: version}, []policy.Unit{state("untimed.service", "inactive", policy.Unit{})}},
		{"a oneshot", target.Target{Unit: "oneshot.service", Health: version}, []policy.Unit{state("oneshot.service", "inactive", policy.Unit{Idle: true})}},
		{"a oneshot that remains", target.Target{Unit: "remains.service", Health: version}, []policy.Unit{state("remains.service", "inactive", policy.Unit{})}},
		{"a oneshot at work", target.Target{Unit: "works.service", Health: version}, []policy.Unit{state("works.service", "activating", policy.Unit{Idle: true, Working: true})}},
		{"a oneshot in a loop", target.Target{Unit: "loops.service", Health: version}, []policy.Unit{state("loops.service", "activating", policy.Unit{Idle: true})}},
		{"not installed", target.Target{Unit: "gone.service"}, []policy.Unit{{Name: "gone.service", Load: "not-found"}}},
		{"reloads", target.Target{Unit: "reloads.service", Reload: true}, []policy.Unit{state("reloads.service", "active", policy.Unit{})}},
		{"does not reload", target.Target{Unit: "up.service", Reload: true}, []policy.Unit{state("up.service", "active", policy.Unit{Unreloadable: true})}},
		{"instances", target.Target{Unit: "x@.service"}, []policy.Unit{state("x@1.service", "active", policy.Unit{}), state("x@2.service", "active", policy.Unit{})}},
		{"no instance", target.Target{Unit: "z@.service"}, []policy.Unit{{Name: "z@.service", Template: true}}},
	} {
		got, err := States(t.Context(), machine, &c.target)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
}

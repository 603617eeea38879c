package units

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
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
	known := func(name, active string, more policy.Unit) policy.Unit {
		more.Name, more.Load, more.Active = name, "loaded", active
		return more
	}
	var rows []testkit.Row
	for _, c := range []struct {
		name   string
		target target.Target
		want   []policy.Unit
	}{
		{"unit = \"\"", target.Target{}, nil},
		{"it runs", target.Target{Unit: "up.service"}, []policy.Unit{known("up.service", "active", policy.Unit{})}},
		{"several, and one is stopped", target.Target{Unit: "up.service", Also: []string{"down.service"}}, []policy.Unit{
			known("up.service", "active", policy.Unit{}), known("down.service", "inactive", policy.Unit{})}},
		{"it has failed, and a timer starts it", target.Target{Unit: "failed.service"}, []policy.Unit{known("failed.service", "failed", policy.Unit{})}},
		{"it waits for its timer", target.Target{Unit: "timed.service", Health: version}, []policy.Unit{known("timed.service", "inactive", policy.Unit{Idle: true})}},
		{"it waits for its path unit", target.Target{Unit: "pathed.service", Health: version}, []policy.Unit{known("pathed.service", "inactive", policy.Unit{Idle: true})}},
		{"it waits for its timer, without a version_command", target.Target{Unit: "timed.service", Health: connects}, []policy.Unit{known("timed.service", "inactive", policy.Unit{Idle: true, Unjudged: true})}},
		{"it waits for its socket, with a probe that connects", target.Target{Unit: "socketed.service", Health: connects}, []policy.Unit{known("socketed.service", "inactive", policy.Unit{Idle: true})}},
		{"it waits for its socket, without such a probe and without a version_command", target.Target{Unit: "socketed.service"}, []policy.Unit{known("socketed.service", "inactive", policy.Unit{Idle: true, Unjudged: true})}},
		{"several: one runs, and one waits for its timer", target.Target{Unit: "up.service", Also: []string{"timed.service"}}, []policy.Unit{
			known("up.service", "active", policy.Unit{}), known("timed.service", "inactive", policy.Unit{Idle: true})}},
		{"several: one waits for its socket, and one for its timer, without a version_command", target.Target{Unit: "socketed.service", Also: []string{"timed.service"}, Health: connects}, []policy.Unit{
			known("socketed.service", "inactive", policy.Unit{Idle: true, Unjudged: true}), known("timed.service", "inactive", policy.Unit{Idle: true, Unjudged: true})}},
		{"it is stopped, and its timer, too", target.Target{Unit: "untimed.service", Health: version}, []policy.Unit{known("untimed.service", "inactive", policy.Unit{})}},
		{"a oneshot between its runs", target.Target{Unit: "oneshot.service", Health: version}, []policy.Unit{known("oneshot.service", "inactive", policy.Unit{Idle: true})}},
		{"a oneshot with RemainAfterExit=, which is stopped", target.Target{Unit: "remains.service", Health: version}, []policy.Unit{known("remains.service", "inactive", policy.Unit{})}},
		{"a oneshot at work", target.Target{Unit: "works.service", Health: version}, []policy.Unit{known("works.service", "activating", policy.Unit{Idle: true, Working: true})}},
		{"a oneshot in a loop", target.Target{Unit: "loops.service", Health: version}, []policy.Unit{known("loops.service", "activating", policy.Unit{Idle: true})}},
		{"it is not installed", target.Target{Unit: "gone.service"}, []policy.Unit{{Name: "gone.service", Load: "not-found"}}},
		{"restart = \"reload\", and it has ExecReload=", target.Target{Unit: "reloads.service", Reload: true}, []policy.Unit{known("reloads.service", "active", policy.Unit{})}},
		{"restart = \"reload\", and it has no ExecReload=", target.Target{Unit: "up.service", Reload: true}, []policy.Unit{known("up.service", "active", policy.Unit{Unreloadable: true})}},
		{"x@.service, of which instances run", target.Target{Unit: "x@.service"}, []policy.Unit{known("x@1.service", "active", policy.Unit{}), known("x@2.service", "active", policy.Unit{})}},
		{"z@.service, of which no instance runs", target.Target{Unit: "z@.service"}, []policy.Unit{{Name: "z@.service", Template: true}}},
	} {
		got, err := States(t.Context(), machine, &c.target)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, err, c.want)
		}
		d := policy.Decide(policy.Known{Rules: policy.Rules{Target: "x"}, Order: state.Order{Verb: state.VerbApply, Origin: state.OriginOperator}, Units: got})
		rows = append(rows, testkit.Row{What: c.name, Refused: d.String()})
	}
	testkit.Accepted(t, "Units before an update", rows)
}

package target

import (
	"slices"
	"strings"
)

// Units returns the names of the units that run the program; none if no unit does. The only
// one may be a template, whose running instances are meant; see [Target.Template].
func (t *Target) Units() []string {
	if t.Unit == "" {
		return nil
	}
	return append([]string{t.Unit}, t.Also...)
}

// Template reports whether the unit is a template.
func (t *Target) Template() bool { return IsTemplate(t.Unit) }

// IsTemplate reports whether a unit's name is one of a template, such as "x@.service".
func IsTemplate(unit string) bool { return strings.HasSuffix(unit, "@.service") }

// units reads the units of the target: unit, then those of units.
func (v *validation) units() (unit string, also []string) {
	const list = "units"
	var all []string
	if v.written("unit") || !v.written(list) {
		unit = v.text("unit")
		all = append(all, unit)
	}
	for _, name := range v.texts(list) {
		if !slices.Contains(all, name) { // the list may name the unit, too
			all = append(all, name)
		}
		if IsTemplate(name) && len(v.texts(list)) > 0 {
			v.problem(list, "must not have a template", "unit = "+`"`+name+`" means its running instances`)
		}
	}
	for _, name := range all {
		key := "unit"
		if name != unit || !v.written(key) {
			key = list
		}
		if ownUnit.MatchString(name) {
			v.problem(key, "must not be a unit of machinemon-update itself", "")
		}
	}
	if len(all) > 1 && (unit == "" && v.written("unit") || IsTemplate(unit)) {
		v.problem(list, `stands beside unit = "`+unit+`"`, "remove one of them")
	}
	switch len(all) {
	case 0: // the list is refused already
		return "", nil
	case 1:
		return all[0], nil
	}
	return all[0], all[1:]
}

// kind refuses keys that mean nothing for the target's units, or that lack what they need.
func (v *validation) kind(t *Target) {
	reload := v.text("restart") == "reload"
	t.Reload = reload
	if t.Unit == "" {
		v.tool(t)
		return
	}
	if reload && t.Health.Main == "" {
		v.problem("restart", `is "reload" without health.main`, "health.main names the file that the unit must run after the reload")
	}
	if reload && t.StopFirst {
		v.problem("restart", `is "reload" beside rollback.stop = true`, "a unit that is stopped cannot be reloaded: remove one of them")
	}
	if reload && slices.ContainsFunc(t.Install, func(i Install) bool { return len(i.Keep) > 0 }) {
		v.problem("restart", `is "reload" beside a keep of [[install]]`, "what is kept moves while the unit is stopped: remove one of them")
	}
}

// tool is kind for a program that no unit runs: nothing is restarted or watched, so the
// answers of its own commands decide.
func (v *validation) tool(t *Target) {
	if len(t.Health.VersionCommand) == 0 {
		v.problem("unit", `is "" without health.version_command`, "no unit shows whether the release works, so its version_command must")
	}
	for _, key := range []string{"restart", "health.main", "health.settle_seconds", "rollback.stop", "source.url_from.option"} {
		if v.written(key) {
			v.problem(key, `means nothing beside unit = ""`, "remove it")
		}
	}
	for n, p := range t.Health.Probes {
		if len(p.Command) == 0 {
			v.problem(v.elements("health.probe")[n], `must be a command beside unit = ""`, "no unit could give another answer")
		}
	}
	t.Health.Main, t.Health.Settle = "", 0
}

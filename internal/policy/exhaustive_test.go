package policy

import (
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
)

// TestDecideExhaustively asks for a decision in each combination of what can be known, and
// checks what must hold in all of them: a release that is rejected, disabled or held back
// is never installed, a schedule installs only what its rules allow, and one more obstacle
// never makes an installation possible.
func TestDecideExhaustively(t *testing.T) {
	attempts := map[string][]func(*Known){
		"a schedule": nil, "a directive": {directive}, "a person": {operator}, "a scheduled check": {check}, "a person's check": {operator, check}, "a rollback": {goBack},
	}
	releases := map[string][]func(*Known){"higher": nil, "lower": {lower}, "the same": {same}, "the same, and a file is missing": {same, miss}}
	obstacles := []func(*Known){hold, withdraw, manual, edit, wait, worry, stop, reject, failed("manifest"), putOff, func(k *Known) { k.Rules.ByVersion = true }}
	decided := 0
	for attempt, attempts := range attempts {
		for release, releases := range releases {
			for _, late := range []bool{false, true} { // the release is not known yet
				allowed := make([]bool, 1<<len(obstacles))
				for set := range allowed {
					k := known()
					for _, change := range append(attempts, releases...) {
						change(&k)
					}
					for i, obstacle := range obstacles {
						if set&(1<<i) != 0 {
							obstacle(&k)
						}
					}
					if late {
						k.Release = nil
					}
					d := Decide(k)
					decided++
					installs := k.Order.Verb != state.VerbCheck
					offered := k.Release != nil && k.Order.Verb != state.VerbRollback
					unattended := k.Order.Origin != state.OriginOperator
					allowed[set] = !d.Refused()
					if allowed[set] && (installs && k.Status.Held != nil ||
						offered && (!installs || k.Release.Disabled || len(k.Status.Rejected) > 0) ||
						installs && unattended && (!k.Rules.AutoUpdate || k.Changed || offered && (release == "lower" || k.Release.NotYet != ""))) {
						t.Fatalf("%s of what is %s is allowed: %+v", attempt, release, k)
					}
					if d.Refused() && d.Result == "" || !d.Refused() && d.Result != "" {
						t.Fatalf("%s of what is %s: %+v", attempt, release, d)
					}
					for i := range obstacles {
						if fewer := set &^ (1 << i); fewer != set && allowed[set] && !allowed[fewer] {
							t.Fatalf("%s of what is %s: obstacle %d makes it possible: %+v", attempt, release, i, k)
						}
					}
				}
			}
		}
	}
	t.Logf("%d decisions", decided)
}

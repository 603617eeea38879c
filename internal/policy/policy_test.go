package policy

import (
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/calendar"
	"github.com/machinemon/machinemon-update/internal/state"
)

// known returns what is known of a scheduled attempt that may install 1.1.0 over 1.0.0.
func known() Known {
	return Known{
		Rules: Rules{Target: "agent", AutoUpdate: true, CheckEvery: time.Hour},
		Order: state.Order{Origin: state.OriginSchedule, Verb: state.VerbApply, Installed: "1.0.0"},
		Status: state.Status{Installed: &state.Release{Version: "1.0.0", Sequence: 1,
			Files: []state.File{{To: "/usr/local/bin/agent", SHA256: "old"}}}},
		Units:   []Unit{{Name: "agent.service", Load: "loaded", Active: "active"}},
		Release: &Release{Version: "1.1.0", Sequence: 2, Archive: "archive", Manifest: "manifest", Fingerprint: "new"},
		Now:     time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC),
	}
}

func operator(k *Known)  { k.Order.Origin = state.OriginOperator }
func directive(k *Known) { k.Order.Origin = state.OriginDirective }
func check(k *Known)     { k.Order.Verb = state.VerbCheck }
func goBack(k *Known)    { k.Order.Origin, k.Order.Verb = state.OriginOperator, state.VerbRollback }
func before(k *Known)    { k.Release = nil }
func hold(k *Known)      { k.Status.Held = &state.Hold{Since: k.Now} }
func withdraw(k *Known)  { k.Release.Disabled = true }
func manual(k *Known)    { k.Rules.AutoUpdate = false }
func edit(k *Known)      { k.Changed = true }
func night(k *Known)     { k.Rules.Window, _ = calendar.Parse("Sun..Thu 02:00-04:00 UTC") }
func queue(k *Known)     { k.Ahead = "the trial of db is open" }
func putOff(k *Known)    { k.Deferred = &state.Deferral{Reason: "backup runs"} }
func drill(k *Known)     { k.Order.Origin, k.Order.Verb = state.OriginOperator, state.VerbDrill }
func wait(k *Known)      { k.Release.NotYet = "not yet" }
func worry(k *Known)     { k.Order.Doubt = "no probe passes" }
func stop(k *Known)      { k.Units[0].Active = "inactive" }
func reject(k *Known) {
	k.Status.Rejected = []state.Rejection{{Archive: k.Release.Archive, Sequence: k.Release.Sequence, Time: k.Now, Reason: "it died"}}
}
func lower(k *Known) { k.Release.Version, k.Release.Sequence = "0.9.0", 1 }
func same(k *Known)  { k.Release.Version, k.Release.Sequence = "v1.0.0", 1 }
func miss(k *Known)  { k.Order.Missing = "/usr/local/bin/agentctl" }

// failed adds an attempt that failed at a manifest; "": no manifest was fetched.
func failed(manifest string) func(*Known) {
	return func(k *Known) {
		k.History = []state.Attempt{{ID: "a", Time: k.Now.Add(-time.Minute), Manifest: manifest, Result: state.ResultNotDownloaded}}
	}
}

// TestDecide checks each rule, the attempts that it binds, and its place in the order.
func TestDecide(t *testing.T) {
	const rejection = "it was rejected on 2026-11-01 12:00 UTC: it died (hint: sudo machinemon-update unskip agent tries it again)"
	held := Decision{RuleHeld, state.ResultNotAttempted, "it is held since 2026-11-01", "sudo machinemon-update unhold agent", nil}
	backsOff := Decision{Rule: RuleBackoff, Result: state.ResultNotAttempted, Reason: "it failed before: backing off until 2026-11-01 12:59 UTC"}
	closed := Decision{RuleWindow, state.ResultNotAttempted, "it waits for its window, Sun..Thu 02:00-04:00 UTC, which opens next at 2026-11-02 02:00 UTC", "sudo machinemon-update apply agent does not wait", nil}
	behind := Decision{RuleAfter, state.ResultNotAttempted, "it waits for another target: the trial of db is open", "sudo machinemon-update apply agent does not wait", nil}
	later := Decision{RuleDeferred, state.ResultNotAttempted, "it waits: backup runs", "sudo machinemon-update apply agent does not wait", nil}
	asked := later
	asked.Reason = "it waits, as of 2026-11-01 11:00 UTC: backup runs"
	available := Decision{Rule: RuleOnlyCheck, Result: state.ResultAvailable}
	for _, c := range []struct {
		name  string
		known []func(*Known)
		want  Decision
	}{
		{name: "nothing is against it"},
		{"the same version, with a file missing", []func(*Known){same, miss}, Decision{}},
		{"a rollback", []func(*Known){goBack, lower, manual}, Decision{}},
		{"only a check", []func(*Known){check}, available},
		{"a person's check of a lower one", []func(*Known){operator, check, lower}, Decision{RuleOnlyCheck, state.ResultAvailable, "0.9.0 is lower than the installed 1.0.0", "", nil}},
		{"before the source is asked", []func(*Known){before}, Decision{}},
		{"a check before the source is asked", []func(*Known){check, before}, Decision{}},

		{"held", []func(*Known){hold, withdraw, reject, manual}, held},
		{"held, for a person", []func(*Known){operator, hold}, held},
		{"held, for a rollback", []func(*Known){goBack, hold}, held},
		{"held, before the source is asked", []func(*Known){hold, before}, held},
		{"held, for a check", []func(*Known){hold, check}, available},

		{"disabled", []func(*Known){withdraw, same}, Decision{RuleDisabled, state.ResultNotAttempted, "the publisher has disabled updates", "", nil}},
		{"disabled, for a person's check", []func(*Known){operator, check, withdraw}, Decision{RuleDisabled, state.ResultNotAttempted, "the publisher has disabled updates", "", nil}},

		{"current", []func(*Known){same, reject}, Decision{Rule: RuleCurrent, Result: state.ResultCurrent}},
		{"current, for a person", []func(*Known){same, operator}, Decision{Rule: RuleCurrent, Result: state.ResultCurrent}},
		{"rebuilt", []func(*Known){same, func(k *Known) { k.Release.Sequence = 2 }}, Decision{}},
		{"rebuilt, and its files are not known", []func(*Known){same, func(k *Known) { k.Release.Sequence, k.Release.Fingerprint = 2, "" }}, Decision{Rule: RuleCurrent, Result: state.ResultCurrent}},
		{"rebuilt with the same files", []func(*Known){same, func(k *Known) {
			k.Release.Sequence, k.Release.Fingerprint = 2, state.Fingerprint(k.Status.Installed.Files)
		}}, Decision{Rule: RuleCurrent, Result: state.ResultCurrent}},
		{"the same, named by a person", []func(*Known){operator, same, func(k *Known) { k.Order.Import, k.Release.Sequence = true, 0 }}, Decision{}},
		{"the same, and staged", []func(*Known){same, func(k *Known) { k.Release.Staged = true }}, Decision{}},
		{"nothing known is installed", []func(*Known){same, func(k *Known) { k.Order.Installed = "" }}, Decision{}},
		{"neither version is known", []func(*Known){func(k *Known) { k.Order.Installed, k.Release.Version, k.Release.Sequence = "", "", 1 }}, Decision{}},
		{"the same, without sequences", []func(*Known){same, func(k *Known) { k.Release.Sequence, k.Status.Installed.Sequence = 0, 0 }}, Decision{Rule: RuleCurrent, Result: state.ResultCurrent}},
		{"the same, signed, named by a person", []func(*Known){operator, same, func(k *Known) { k.Order.Import = true }}, Decision{Rule: RuleCurrent, Result: state.ResultCurrent}},
		{"the same, and no record of it", []func(*Known){same, func(k *Known) { k.Release.Sequence, k.Status.Installed = 2, nil }}, Decision{Rule: RuleCurrent, Result: state.ResultCurrent}},
		{"the same, and the record is of another version", []func(*Known){same, func(k *Known) { k.Release.Sequence, k.Status.Installed.Version = 2, "0.8.0" }}, Decision{Rule: RuleCurrent, Result: state.ResultCurrent}},

		{"rejected, for a person", []func(*Known){operator, reject}, Decision{Rule: RuleRejected, Result: state.ResultNotAttempted, Reason: rejection}},
		{"rejected, and lower", []func(*Known){lower, reject}, Decision{Rule: RuleRejected, Result: state.ResultNotAttempted, Reason: rejection}},
		{"rejected, for a rollback", []func(*Known){goBack, reject}, Decision{}},

		{"others go first", []func(*Known){wait, manual}, Decision{RuleRollout, state.ResultAvailable, "not yet", "", nil}},
		{"others go first, for a check", []func(*Known){wait, check}, Decision{RuleRollout, state.ResultAvailable, "not yet", "", nil}},
		{"others go first, for a person", []func(*Known){wait, operator}, Decision{}},

		{"not enabled", []func(*Known){manual, edit}, Decision{RuleAutoUpdate, state.ResultNotAttempted, "scheduled runs only check", "sudo machinemon-update apply agent", nil}},
		{"not enabled, for a directive", []func(*Known){manual, directive, before}, Decision{RuleAutoUpdate, state.ResultNotAttempted, "scheduled runs only check", "sudo machinemon-update apply agent", nil}},
		{"not enabled, for a person", []func(*Known){manual, operator}, Decision{}},

		{"changed by hand", []func(*Known){edit, stop}, Decision{RuleChanged, state.ResultNotAttempted, "the installed files were changed by hand", "sudo machinemon-update apply agent", nil}},
		{"changed by hand, for a person", []func(*Known){edit, operator}, Decision{}},

		{"outside of the window", []func(*Known){night, edit, stop}, closed},
		{"outside of the window, and a directive asks", []func(*Known){night, directive}, closed},
		{"outside of the window, before the source is asked", []func(*Known){night, before}, closed},
		{"outside of the window, for a check", []func(*Known){night, check}, available},
		{"outside of the window, for a person", []func(*Known){night, operator}, Decision{}},
		{"outside of the window, and the time is not known", []func(*Known){night, func(k *Known) { k.Now = time.Time{} }}, Decision{}},
		{"in the window", []func(*Known){night, func(k *Known) { k.Now = k.Now.Add(-9 * time.Hour) }}, Decision{}},
		{"another target goes first", []func(*Known){queue, edit, stop}, behind},
		{"another target goes first, before the source is asked", []func(*Known){queue, before}, behind},
		{"another target goes first, for a person", []func(*Known){queue, operator}, Decision{}},
		{"another target goes first, for a check", []func(*Known){queue, check}, available},
		{"deferred", []func(*Known){putOff, worry}, later},
		{"deferred, and asked before", []func(*Known){putOff, func(k *Known) { k.Deferred.Asked = k.Now.Add(-time.Hour) }}, asked},
		{"deferred, for a person", []func(*Known){putOff, operator}, Decision{}},
		{"deferred, for a check", []func(*Known){putOff, check}, available},
		{"deferred, and stopped", []func(*Known){putOff, stop}, Decision{RuleUnit, state.ResultNotAttempted, "agent.service is stopped", "sudo systemctl start agent.service", nil}},
		{"a drill", []func(*Known){drill, lower, manual, reject, withdraw}, Decision{}},
		{"a drill, held", []func(*Known){drill, hold}, held},
		{"a drill of what is stopped", []func(*Known){drill, stop}, Decision{RuleUnit, state.ResultNotAttempted,
			"agent.service does not run now, and only what runs can be seen to come back", "sudo systemctl start agent.service", nil}},
		{"a drill of what is masked", []func(*Known){drill, stop, func(k *Known) { k.Units[0].Load = "masked" }}, Decision{RuleUnit, state.ResultNotAttempted, "agent.service is masked", "", nil}},
		{"stopped", []func(*Known){stop, worry}, Decision{RuleUnit, state.ResultNotAttempted, "agent.service is stopped", "sudo systemctl start agent.service", nil}},
		{"stopped, for a rollback", []func(*Known){stop, goBack}, Decision{RuleUnit, state.ResultNotAttempted, "agent.service is stopped", "sudo systemctl start agent.service", nil}},
		{"stopped, for a check", []func(*Known){stop, check}, available},
		{"idle", []func(*Known){stop, func(k *Known) { k.Units[0].Idle = true }}, Decision{}},
		{"idle otherwise, and at work", []func(*Known){func(k *Known) { k.Units[0].Idle, k.Units[0].Working = true, true }}, Decision{RuleUnit, state.ResultNotAttempted,
			"agent.service is at work", "it is updated between its runs; systemctl status agent.service", nil}},
		{"idle, and no command", []func(*Known){stop, func(k *Known) { k.Units[0].Idle, k.Units[0].Unjudged = true, true }}, Decision{RuleUnit, state.ResultMisconfigured,
			"cannot judge agent: agent.service is idle, and the target has no command that shows whether a release works", "set health.version_command", nil}},
		{"one of several is stopped", []func(*Known){func(k *Known) {
			k.Units = append(k.Units, Unit{Name: "worker.service", Load: "loaded", Active: "inactive"})
		}}, Decision{RuleUnit, state.ResultNotAttempted, "worker.service is stopped", "sudo systemctl start worker.service", nil}},
		{"one of several is idle", []func(*Known){func(k *Known) {
			k.Units = append(k.Units, Unit{Name: "job.service", Load: "loaded", Active: "inactive", Idle: true})
		}}, Decision{}},
		{"no instance runs", []func(*Known){func(k *Known) { k.Units = []Unit{{Name: "agent@.service", Template: true}} }}, Decision{RuleUnit, state.ResultNotAttempted,
			"no instance of agent@.service runs", "sudo systemctl start one of its instances", nil}},
		{"cannot be reloaded", []func(*Known){func(k *Known) { k.Units[0].Unreloadable = true }}, Decision{RuleUnit, state.ResultMisconfigured,
			"cannot update agent: agent.service cannot be reloaded, for it has no ExecReload=", `remove restart = "reload"`, nil}},
		{"about to start", []func(*Known){stop, func(k *Known) { k.Units[0].Queued = true }}, Decision{}},
		{"failed", []func(*Known){func(k *Known) { k.Units[0].Active = "failed" }}, Decision{}},
		{"masked", []func(*Known){func(k *Known) { k.Units[0].Load = "masked" }}, Decision{RuleUnit, state.ResultNotAttempted, "agent.service is masked", "", nil}},
		{"not installed", []func(*Known){func(k *Known) { k.Units[0].Load = "not-found" }}, Decision{RuleUnit, state.ResultNotAttempted, "agent.service is not installed", "systemctl list-units --type=service lists what unit may be", nil}},
		{"a broken unit", []func(*Known){func(k *Known) { k.Units[0].Load = "bad-setting" }}, Decision{RuleUnit, state.ResultMisconfigured,
			"cannot update agent: systemd could not load agent.service (bad-setting)", "systemctl status agent.service", nil}},
		{"no unit is known", []func(*Known){func(k *Known) { k.Units = nil }}, Decision{}},

		{"doubt", []func(*Known){worry, failed("")}, Decision{RuleDoubt, state.ResultNotAttempted, "no probe passes", "", nil}},
		{"doubt before the source is asked", []func(*Known){worry, before}, Decision{}},

		{"the source backs off", []func(*Known){failed(""), before}, backsOff},
		{"the source backs off, for a check", []func(*Known){failed(""), check, before}, backsOff},
		{"the source backs off, for a person", []func(*Known){failed(""), before, operator}, Decision{}},
		{"the source backs off, after a boot", []func(*Known){failed(""), before, func(k *Known) { k.Order.Booted = true }}, Decision{}},
		{"the source asked for a pause, after a boot", []func(*Known){failed(""), before, func(k *Known) { k.Order.Booted, k.History[0].RetryAfter = true, k.Now }}, backsOff},
		{"the source backs off, and a release is known", []func(*Known){failed("")}, backsOff},
		{"the release backs off", []func(*Known){failed("manifest")}, backsOff},
		{"the release backs off, after a boot", []func(*Known){failed("manifest"), func(k *Known) { k.Order.Booted, k.History[0].Result = true, state.ResultRefused }}, backsOff},
		{"the release backs off, and is only looked at", []func(*Known){failed("manifest"), check}, available},
		{"the release backs off, before it is known", []func(*Known){failed("manifest"), before}, Decision{}},
		{"the release backs off, for a person", []func(*Known){failed("manifest"), operator}, Decision{}},
		{"another release failed", []func(*Known){failed("other")}, Decision{}},
		{"another release failed, and a directive asks", []func(*Known){failed("other"), directive}, backsOff},
		{"another release failed and another one was seen, and a directive asks", []func(*Known){failed("other"), directive, func(k *Known) {
			k.History = append(k.History, state.Attempt{ID: "b", Time: k.Now, Manifest: "third", Result: state.ResultAvailable})
		}}, Decision{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := known()
			for _, change := range c.known {
				change(&k)
			}
			got := Decide(k)
			if got.Rule != c.want.Rule || got.Result != c.want.Result || got.String() != c.want.String() {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			if (got.Err() == nil) != (got.Reason == "") || got.Err() != nil && state.ResultOf(got.Err()) != got.Result {
				t.Errorf("the error is %v", got.Err())
			}
			if (got.Rejection != nil) != (got.Rule == RuleRejected) {
				t.Errorf("the rejection is %+v", got.Rejection)
			}
		})
	}
}

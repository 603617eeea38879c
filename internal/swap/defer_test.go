package swap

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// TestDeferred checks which answers of this machine keep an unattended attempt from
// installing, before the release is fetched and before it is swapped in, and what is told
// of them.
func TestDeferred(t *testing.T) {
	const program = "/usr/bin/not-now"
	said := func(detail, output string) func(*rig) {
		return func(r *rig) { r.sys.tried = systemd.SandboxResult{Detail: detail, Output: output} }
	}
	locked := func(r *rig) { r.sys.locks = []systemd.Inhibitor{{Who: "backup", Why: "of the day", PID: 12}} }
	const command, locks = "inhibit = ['" + program + "', '-q']\n", "shutdown_inhibitors = true\n"
	for _, c := range []struct {
		name, keys string
		answer     func(*rig)
		reason     string // "": it goes on
	}{
		{"yes", command, said("", "go on"), ""},
		{"no", command, said("exit status 1", "\n\x1b[1mbackup runs\x1b[0m\nmore"), program + " says no: backup runs"},
		{"no, without a word", command, said("exit status 3", ""), program + " says no"},
		{"killed", command, func(r *rig) { r.sys.tried = systemd.SandboxResult{Signal: true, Detail: "SIGKILL"} }, program + " does not answer: SIGKILL"},
		{"late", command, func(r *rig) { r.sys.tried = systemd.SandboxResult{Late: true, Detail: "it did not end within 20s"} }, program + " does not answer: it did not end within 20s"},
		{"not asked", command, func(r *rig) { r.sys.fails["try not-now"] = errors.New("no sandbox") }, "cannot ask " + program + ": no sandbox"},
		{"a lock", locks, locked, "backup (process 12) keeps the machine from shutting down: of the day"},
		{"a lock, not heeded", "", locked, ""},
		{"no lock", locks, func(*rig) {}, ""},
		{"logind does not say", locks, func(r *rig) { r.sys.fails["inhibitors"] = errors.New("no answer") }, "no answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.override(t, "[schedule]\n"+c.keys)
			c.answer(r)
			r.step(t, "begin")
			want := state.VerbApply
			if c.reason != "" {
				want = state.VerbCheck
			}
			if o := r.order(t); o.Verb != want {
				t.Errorf("order %+v", o)
			}
			told := func() {
				t.Helper()
				if d := r.status(t).Deferred; (d == nil) != (c.reason == "") || d != nil && (d.Reason != c.reason || time.Since(d.Asked) > time.Minute) {
					t.Errorf("recorded: %+v, want %q", d, c.reason)
				}
			}
			told()
			if c.keys == command && (!r.sys.trial.Look || r.sys.trial.User != "mm-command-agent" || !slices.Equal(r.sys.trial.Argv, []string{program, "-q"})) {
				t.Errorf("it runs as %+v", r.sys.trial)
			}
			// The answer may have changed since the attempt began.
			must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Origin: state.OriginSchedule, Verb: state.VerbApply, Installed: "v1"}))
			must(t, look(r.tree, state.Baseline{Attempt: "a1", Standing: true}))
			r.spool(t, "a1", "v2", 2, release2, nil)
			if c.reason == "" {
				r.step(t, "swap")
				r.step(t, "rollback")
				return
			}
			r.fails(t, "swap", state.ResultNotAttempted, "it waits: "+c.reason+" (hint: sudo machinemon-update apply agent does not wait)")
			r.untouched(t)
			told()
			// A person does not wait, and is not asked for.
			r.sys.calls = nil
			must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: state.VerbApply}))
			r.step(t, "begin")
			if o := r.order(t); o.Verb != state.VerbApply || r.sys.called("try not-now") != 0 {
				t.Errorf("order %+v, calls %q", o, r.sys.calls)
			}
			// Another answer ends the wait.
			r.sys.tried, r.sys.locks = systemd.SandboxResult{}, nil
			delete(r.sys.fails, "inhibitors")
			delete(r.sys.fails, "try not-now")
			r.step(t, "begin")
			if o, d := r.order(t), r.status(t).Deferred; o.Verb != state.VerbApply || d != nil {
				t.Errorf("order %+v, recorded %+v", o, d)
			}
		})
	}
	t.Run("asked only if nothing else is against it", func(t *testing.T) {
		r := newRig(t)
		r.override(t, "auto_update_enabled = false\n[schedule]\n"+command)
		r.step(t, "begin")
		if r.sys.called("try not-now") != 0 {
			t.Errorf("calls: %q", r.sys.calls)
		}
	})
}

// TestDelay checks that a shutdown is delayed while files are replaced and the program
// restarts, and not before and after that; without logind the swap goes on.
func TestDelay(t *testing.T) {
	r := newRig(t)
	r.offer(t, "a1", "v2", 2, release2)
	r.sys.on["restart agent.service"] = func() {
		if r.sys.delayed != "updating agent to v2" {
			t.Errorf("a shutdown is delayed for %q", r.sys.delayed)
		}
	}
	r.sys.fails["delay"] = errors.New("no answer")
	r.step(t, "swap")
	if r.sys.delayed != "" || r.sys.called("restart agent.service") != 1 {
		t.Errorf("calls: %q, delayed for %q", r.sys.calls, r.sys.delayed)
	}
	delete(r.sys.on, "restart agent.service") // a rollback that is cut is repeated at the boot
	r.step(t, "rollback")
}

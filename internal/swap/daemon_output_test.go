package swap

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestSaid checks that the record has the lines of the new program and of no other.
func TestSaid(t *testing.T) {
	r := newRig(t)
	r.sw.Boot = "b00t"
	badTrial(t, r)
	j, err := r.tree.Journal("agent")
	must(t, err)
	if j.Invocation != "1st" || j.Restarted <= 0 {
		t.Fatalf("journal: %+v", j)
	}
	j.Restarted -= time.Minute // the restart was a minute ago
	must(t, r.tree.SetJournal(j))
	const later = time.Second
	r.sys.lines = []systemd.LogLine{
		{Text: "too old for the newest five"},
		{Text: "of an earlier start", Invocation: "0th", At: j.Restarted - later},
		{Text: "the old one stops", Invocation: "1st", At: j.Restarted + later},
		{Text: "the old one is gone when its line arrives", PID: r.sys.pid, At: j.Restarted + later},
		{Text: "and the new one has been started", Invocation: "2nd", PID: r.sys.pid, At: j.Restarted + later},
		{Text: "  \x1b[1;31mFATAL\x1b[0m: HOST_IP not set\nat \x1b]0;x\x07y \xff\n", Invocation: "2nd", At: j.Restarted + later},
		{Text: "\x00 ", Invocation: "2nd", At: j.Restarted + later},
		{Text: strings.Repeat("ü", 1<<20), Invocation: "3rd", At: j.Restarted + 2*later},
		{Text: "the old one runs again", Invocation: "4th", At: j.Restarted + time.Hour},
	}
	r.step(t, "rollback")
	r.ended(t, "a1", state.ResultRolledBack)
	a := r.last(t)
	want := []string{"FATAL: HOST_IP not set; at  ]0;x y ?", strings.Repeat("ü", saidBytes/2) + "…"}
	if !slices.Equal(a.Said, want) || a.Unit != "agent.service" || !a.Started.Equal(j.Started) {
		t.Errorf("recorded %+v\nwant %q", a, want)
	}
	if r.sys.called("log b00t agent.service") != 1 {
		t.Errorf("calls: %q", r.sys.calls)
	}
}

// TestNothingSaid checks that an error of the journal costs only the lines, and that no
// time is lost if the new program was never started.
func TestNothingSaid(t *testing.T) {
	r := newRig(t)
	r.sys.fails["log  agent.service"] = errors.New("no journal")
	badTrial(t, r)
	r.step(t, "rollback")
	r.want(t, oldFiles)
	r.closed(t)
	r.ended(t, "a1", state.ResultRolledBack)
	if a := r.last(t); len(a.Said) > 0 || a.Unit == "" || !strings.Contains(r.log.String(), "a1: v2: no journal\n") {
		t.Errorf("recorded %+v\nlog: %s", a, r.log)
	}

	r = newRig(t)
	r.sys.fails["arm machinemon-deadline@agent.timer"] = errors.New("no answer")
	r.offer(t, "a1", "v2", 2, release2)
	r.fails(t, "swap", state.ResultFailed, "no answer")
	r.sys.fails = map[string]error{}
	r.step(t, "rollback")
	if a := r.last(t); a.Unit != "" || r.sys.called("log  agent.service") != 0 {
		t.Errorf("recorded %+v; calls: %q", a, r.sys.calls)
	}
}

// TestRecordRejects checks that the record names the release that it rejected.
func TestRecordRejects(t *testing.T) {
	testkit.Slow(t)
	r := newRig(t)
	for i := range state.MaxInterruptions {
		r.offer(t, state.AttemptID(fmt.Sprint("a", i)), "v2", 2, release2)
		r.step(t, "swap")
		r.step(t, "rollback")
		if a := r.last(t); (a.Rejected == "v2") != (i == state.MaxInterruptions-1) {
			t.Errorf("interruption %d: %+v", i, a)
		}
	}
	r = newRig(t)
	badTrial(t, r)
	r.step(t, "rollback")
	if a := r.last(t); a.Rejected != "v2" {
		t.Errorf("rolled back: %+v", a)
	}
	r = newRig(t)
	goBack(t, r)
	r.step(t, "swap")
	r.gate(t, "b1", state.FindingHealthy, "")
	r.step(t, "commit")
	if a := r.last(t); a.Rejected != "v2" {
		t.Errorf("going back: %+v", a)
	}
}

// TestLastWords checks that a failed rollback records the last line of the old program,
// which does not run, and no line of another start.
func TestLastWords(t *testing.T) {
	testkit.Slow(t)
	const started = time.Hour // from the start of the test
	ready, fatal := systemd.LogLine{Text: "2.0 is ready", Invocation: "2nd"}, systemd.LogLine{Text: "\x1b[31mFATAL\x1b[0m: schema 2", Invocation: "3rd", At: started}
	for name, c := range map[string]struct {
		lines []systemd.LogLine
		err   error
		want  string
	}{
		"it was started":          {[]systemd.LogLine{ready, fatal, {Text: " ", Invocation: "3rd", At: started}}, nil, "; it said: FATAL: schema 2"},
		"and again":               {[]systemd.LogLine{fatal, {Text: "schema 2 still", Invocation: "4th", At: started}}, nil, "; it said: schema 2 still"},
		"it could not be started": {[]systemd.LogLine{ready, {Text: "2.0 says goodbye", Invocation: "2nd", At: started}}, nil, ""},
		"before the update":       {[]systemd.LogLine{{Text: "1.0 says goodbye", Invocation: "1st"}}, nil, ""},
		"of an unknown run":       {[]systemd.LogLine{{Text: "2.0 says goodbye", At: started}}, nil, ""},
		"it said nothing":         {[]systemd.LogLine{ready}, nil, ""},
		"no journal":              {[]systemd.LogLine{fatal}, errors.New("no journal"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			badTrial(t, r)
			u, err := r.sys.Unit(t.Context(), "agent.service")
			must(t, err)
			u.Invocation = "2nd" // of the new program
			r.sys.units["agent.service"] = u
			now, err := systemd.Monotonic()
			must(t, err)
			for _, l := range c.lines {
				if l.At == started {
					l.At += now
				}
				r.sys.lines = append(r.sys.lines, l)
			}
			r.sys.fails["log  agent.service"] = c.err
			r.sys.after = state.Baseline{Detail: "failed (dead)"}
			want := "does not run: failed (dead)" + c.want
			r.fails(t, "rollback", state.ResultRollbackFailed, want)
			if got := r.last(t).Reason; !strings.HasSuffix(got, want) {
				t.Errorf("recorded %s\nwant it to end with %s", got, want)
			}
		})
	}
}

// TestWhatAHookSaid checks that a failed hook's error ends with the hook's last line.
func TestWhatAHookSaid(t *testing.T) {
	for name, c := range map[string]struct {
		lines []string // lines since the hook started
		err   error
		want  string
	}{
		"the last":   {lines: []string{"migrating", "\x1b[1mno space\x1b[0m", " "}, want: "; it said: no space (hint: "},
		"none":       {want: " (hint: "},
		"no journal": {lines: []string{"no space"}, err: errors.New("no journal"), want: " (hint: "},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.sw.Boot = "b00t"
			hooked(t, r)
			r.sys.fails["hook migrate"] = errors.New("exit status 3")
			r.sys.fails["log b00t machinemon-hook@agent.service"] = c.err
			now, err := systemd.Monotonic()
			must(t, err)
			r.sys.lines = []systemd.LogLine{{Text: "of another run", At: now - time.Hour}}
			for _, line := range c.lines {
				r.sys.lines = append(r.sys.lines, systemd.LogLine{Text: line, At: now + time.Hour})
			}
			r.fails(t, "swap", state.ResultFailed, "the pre_swap hook failed: exit status 3"+c.want)
		})
	}
}

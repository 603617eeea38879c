package health

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

const ms = time.Millisecond

// seenAt is the state that systemd reports from a time on.
type seenAt struct {
	at  time.Duration
	is  unitState
	err error
}

// answers is the answer of a probe from a time on.
type answers struct {
	at    time.Duration
	err   error
	hangs bool
}

func unit(active, sub string, pid uint32) unitState {
	return unitState{Unit: systemd.Unit{Load: "loaded", Active: active, Sub: sub, MainPID: pid, Result: "success"}}
}

func (s unitState) exited(result string, code, value int32) unitState {
	s.Result, s.ExecCode, s.ExecValue = result, code, value
	return s
}

// stopped makes the end one that a job caused, of a run that began after the last stop.
func (s unitState) stopped() unitState {
	s.Began, s.MainBegan, s.Left, s.MainEnded = 2, 1, 3, 4
	return s
}

func (s unitState) of(kind string) unitState { s.Type = kind; return s }

func (s unitState) restarted(n uint32) unitState    { s.NRestarts = n; return s }
func (s unitState) job() unitState                  { s.Job = 7; return s }
func (s unitState) runs(text string) unitState      { s.foreign = text; return s }
func (s unitState) runsOlder(text string) unitState { s.foreign, s.older = text, true; return s }
func (s unitState) beside(pid uint32) unitState     { s.aside = pid; return s }
func (s unitState) run(id string) unitState         { s.Invocation = id; return s }
func (s unitState) asDeclared() unitState           { s.declared = true; return s }

var (
	up       = unit("active", "running", 10)
	starting = unit("activating", "start", 10)
	crashed  = unit("activating", "auto-restart", 0).exited("exit-code", systemd.Exited, 1)
	failed   = unit("failed", "failed", 0).exited("exit-code", systemd.Exited, 2)
	ended    = unit("inactive", "dead", 0).exited("success", systemd.Exited, 0)
	remains  = func() unitState {
		s := unit("active", "exited", 0).exited("success", systemd.Exited, 0)
		s.Type, s.RemainAfterExit = "oneshot", true
		return s
	}()
	errMistake = mistaken{errors.New("ca_file /x does not exist (hint: make it)")}

	asks = unit("activating", "auto-restart", 0).exited("exit-code", systemd.Exited, 75).asDeclared() // to be restarted

	errRefused  = errors.New("connection refused")
	errStranger = unowned{error: errors.New("another program answers")}
	errShort    = lacking{errors.New("too many open files in system")}
	bash        = "no process of x.service runs /opt/x; its main process runs /usr/bin/bash"
)

const none = 1<<32 - 1 // stands for no process

func always(err error) []answers { return []answers{{0, err, false}} }

// TestTrial plays states of a unit and answers of probes against the clock.
func TestTrial(t *testing.T) {
	type scenario struct {
		name        string
		units       []seenAt
		probes      map[string][]answers // "a", "b"…: in the order of their names
		excused     string               // names of the probes that failed before
		before      string               // why the unit was not up before
		lenient     bool                 // not strict: a baseline
		fresh       bool                 // a lenient one after a rollback
		settle      time.Duration        // 5 s if zero
		finding     state.Finding
		reason      string // a part of the reason
		unproven    bool
		version     bool   // there is a version_command, which passes
		blamed      string // the only probe that makes the finding bad
		fallen      bool   // the outcome must not be standing
		silent      bool   // systemd sends no event
		tried       int    // the number of tried probes, if it matters; -1 for none
		unknown     bool   // nothing is known of the first probe
		program     uint32 // the process found healthy; 10 if zero
		unjudgeable string
		from, to    time.Duration
	}
	steady := []seenAt{{0, up, nil}}
	good := map[string][]answers{"a": always(nil)}
	for _, c := range []scenario{
		{name: "healthy", units: steady, probes: good, finding: state.FindingHealthy, from: 5 * time.Second, to: 5100 * ms},
		{name: "healthy, no settling", units: steady, probes: good, settle: -1, finding: state.FindingHealthy, to: 1 * ms},
		{name: "no probes", units: steady, finding: state.FindingHealthy, from: 5 * time.Second, to: 5 * time.Second},
		{name: "listens after a second", units: steady, probes: map[string][]answers{"a": {{0, errRefused, false}, {1 * time.Second, nil, false}}},
			finding: state.FindingHealthy, from: 6 * time.Second, to: 7 * time.Second},
		{name: "starts slowly", units: []seenAt{{0, starting, nil}, {20 * time.Second, up, nil}}, probes: good,
			finding: state.FindingHealthy, from: 25 * time.Second, to: 25100 * ms},
		{name: "never ends its start", units: []seenAt{{0, starting, nil}}, probes: good, fallen: true, tried: -1,
			finding: state.FindingBad, reason: "not healthy within 30 s: it is still starting (start)", from: 30 * time.Second, to: 30 * time.Second},
		{name: "is being executed", units: []seenAt{{0, up.runs("its main process runs /usr/lib/systemd/systemd, not /opt/x"), nil}, {5 * ms, up, nil}}, probes: good,
			finding: state.FindingHealthy, from: 5 * time.Second, to: 5100 * ms},
		{name: "reloads itself", units: []seenAt{{0, up, nil}, {2 * time.Second, unit("reloading", "reload", 10), nil}, {3 * time.Second, up, nil}}, probes: good,
			finding: state.FindingHealthy, from: 5 * time.Second, to: 5100 * ms},

		{name: "crashes at once", units: []seenAt{{0, crashed, nil}}, probes: good, fallen: true,
			finding: state.FindingBad, reason: "its main process exited with status 1 at once", to: 0},
		{name: "crashes at once, no restart", units: []seenAt{{0, failed, nil}}, fallen: true,
			finding: state.FindingBad, reason: "exited with status 2 at once", to: 0},
		{name: "exits 0 at once", units: []seenAt{{0, ended, nil}}, probes: good, fallen: true,
			finding: state.FindingBad, reason: "exited with status 0 at once", to: 0},
		{name: "exits 0 and remains", units: []seenAt{{0, unit("active", "exited", 0).exited("success", systemd.Exited, 0), nil}}, fallen: true,
			finding: state.FindingBad, reason: "exited with status 0", to: 0},
		{name: "cannot be executed", units: []seenAt{{0, unit("failed", "failed", 0).exited("exit-code", systemd.Exited, 203), nil}}, fallen: true,
			finding: state.FindingBad, reason: "could not be executed (status 203/EXEC)", to: 0},
		{name: "crashed before the gate came", units: []seenAt{{0, up.restarted(1), nil}}, probes: good, fallen: true,
			finding: state.FindingBad, reason: "ended and systemd restarted it at once", to: 0},
		{name: "fails while starting", units: []seenAt{{0, starting, nil}, {3 * time.Second, failed, nil}}, probes: good, fallen: true,
			finding: state.FindingBad, reason: "status 2 after 3 s", from: 3 * time.Second, to: 3 * time.Second},
		{name: "crashes in the settle time", units: []seenAt{{0, up, nil}, {3 * time.Second, crashed, nil}}, probes: good, fallen: true,
			finding: state.FindingBad, reason: "status 1 after 3 s", from: 3 * time.Second, to: 3 * time.Second},
		{name: "its sockets close before it is gone", fallen: true,
			units:   []seenAt{{0, up, nil}, {2030 * ms, unit("failed", "failed", 0).exited("signal", systemd.Killed, 11), nil}},
			probes:  map[string][]answers{"a": {{0, nil, false}, {1990 * ms, errRefused, false}}},
			finding: state.FindingBad, reason: "killed by SIGSEGV after 2 s", from: 2 * time.Second, to: 2100 * ms},
		{name: "restarted too fast to be seen down", units: []seenAt{{0, up, nil}, {2 * time.Second, unit("active", "running", 11).restarted(1), nil}}, fallen: true,
			finding: state.FindingBad, reason: "systemd restarted it after 2 s", from: 2 * time.Second, to: 2 * time.Second},
		{name: "watchdog", units: []seenAt{{0, up, nil}, {4 * time.Second, unit("failed", "failed", 0).exited("watchdog", systemd.Dumped, 6), nil}}, fallen: true,
			finding: state.FindingBad, reason: "killed by SIGABRT (systemd says: watchdog) after 4 s", from: 4 * time.Second, to: 4 * time.Second},
		{name: "unit file gone", units: []seenAt{{0, unitState{Unit: systemd.Unit{Load: "not-found", Active: "inactive", Sub: "dead"}}, nil}}, fallen: true,
			finding: state.FindingBad, reason: "its unit file is not-found", to: 0},

		{name: "never listens", units: steady, probes: map[string][]answers{"a": always(nil), "b": always(errRefused)},
			finding: state.FindingBad, reason: "b did not pass within 30 s: connection refused", blamed: "b", from: 30 * time.Second, to: 30 * time.Second},
		{name: "answers 500", units: steady, probes: map[string][]answers{"a": always(errors.New("status 500 instead of 200"))},
			finding: state.FindingBad, reason: "a did not pass within 30 s: status 500 instead of 200", blamed: "a", from: 30 * time.Second, to: 30 * time.Second},
		{name: "hangs", units: steady, probes: map[string][]answers{"a": {{0, nil, true}}},
			finding: state.FindingBad, reason: "a did not pass within 30 s: no answer within", blamed: "a", from: 30 * time.Second, to: 30 * time.Second},
		{name: "flaps in the settle time", units: steady, probes: map[string][]answers{"a": {{0, nil, false}, {2 * time.Second, errRefused, false}, {2600 * ms, nil, false}}},
			finding: state.FindingBad, reason: "a failed 2 s into the settle time: connection refused", blamed: "a", from: 2 * time.Second, to: 2700 * ms},
		{name: "hangs at the end of the settle time", units: steady, probes: map[string][]answers{"a": {{0, nil, false}, {4400 * ms, nil, true}}},
			finding: state.FindingBad, reason: "settle time: no answer within 2 s", blamed: "a", from: 6 * time.Second, to: 7 * time.Second},

		{name: "failed before, passes now", units: steady, probes: map[string][]answers{"a": {{0, errRefused, false}, {3 * time.Second, nil, false}}}, excused: "a",
			finding: state.FindingHealthy, from: 8 * time.Second, to: 9100 * ms},
		{name: "failed before and now, another passes", units: steady, probes: map[string][]answers{"a": always(errRefused), "b": always(nil)}, excused: "a",
			finding: state.FindingHealthy, from: 35 * time.Second, to: 35100 * ms},
		{name: "failed before and now, another fails", units: steady, probes: map[string][]answers{"a": always(errRefused), "b": always(errRefused)}, excused: "a",
			finding: state.FindingBad, reason: "b did not pass", blamed: "b", from: 30 * time.Second, to: 30 * time.Second},
		{name: "failed before, flaps now", units: steady, probes: map[string][]answers{"a": {{0, nil, false}, {2 * time.Second, errRefused, false}}, "b": always(nil)}, excused: "a",
			finding: state.FindingHealthy, from: 5 * time.Second, to: 5100 * ms},
		{name: "none left", units: steady, probes: map[string][]answers{"a": always(errRefused), "b": always(errRefused)}, excused: "ab",
			finding: state.FindingHealthy, unproven: true, reason: "no probe proves it, for none ever passed here: a: connection refused; b: connection refused",
			from: 35 * time.Second, to: 35100 * ms},
		{name: "none left but the version", units: steady, probes: map[string][]answers{"a": always(errRefused)}, excused: "a", version: true,
			finding: state.FindingHealthy, unproven: true, reason: "no probe proves it, for none ever passed here: a: connection refused", from: 35 * time.Second, to: 35100 * ms},
		{name: "the only one passes at last", units: steady, probes: map[string][]answers{"a": {{0, errRefused, false}, {3 * time.Second, nil, false}}}, excused: "a", version: true,
			finding: state.FindingHealthy, from: 8 * time.Second, to: 9100 * ms},
		{name: "the only one passes, and flaps", units: steady, probes: map[string][]answers{"a": {{0, nil, false}, {2 * time.Second, errRefused, false}}}, excused: "a", version: true,
			finding: state.FindingHealthy, unproven: true, reason: "no probe proves it, for none ever passed here: a: connection refused", from: 5 * time.Second, to: 5100 * ms},
		{name: "the only one passes, flaps and passes again", units: steady, probes: map[string][]answers{"a": {{0, nil, false}, {2 * time.Second, errRefused, false}, {3 * time.Second, nil, false}}}, excused: "a",
			finding: state.FindingHealthy, unproven: true, reason: "no probe proves it, for none ever passed here: a: connection refused", from: 5 * time.Second, to: 5100 * ms},
		{name: "no probes, but the version", units: steady, version: true, finding: state.FindingHealthy, from: 5 * time.Second, to: 5 * time.Second},
		{name: "none left, and it crashes", units: []seenAt{{0, up, nil}, {31 * time.Second, crashed, nil}}, probes: map[string][]answers{"a": always(errRefused)}, excused: "a", fallen: true,
			finding: state.FindingBad, reason: "status 1 after 31 s", from: 31 * time.Second, to: 31 * time.Second},

		{name: "runs another file", units: []seenAt{{0, up.runs(bash), nil}}, probes: good, fallen: true,
			finding: state.FindingBad, reason: "not healthy within 30 s: " + bash, from: 30 * time.Second, to: 30 * time.Second},
		{name: "ran another file before as well", units: []seenAt{{0, up.runs(bash), nil}}, before: bash, fallen: true,
			finding: state.FindingUnsure, reason: bash + `, as before the swap (hint: write main = "" below [health])`, from: 30 * time.Second, to: 30 * time.Second},
		{name: "never started, nor before", units: []seenAt{{0, starting, nil}}, before: "it is still starting (start)", fallen: true,
			finding: state.FindingBad, reason: "still starting", from: 30 * time.Second, to: 30 * time.Second},
		{name: "becomes another program", units: []seenAt{{0, up, nil}, {2 * time.Second, up.runs(bash), nil}}, fallen: true,
			finding: state.FindingBad, reason: bash + " after 2 s", from: 2 * time.Second, to: 2 * time.Second},

		{name: "a wrapper stays", units: []seenAt{{0, up.runs(bash), nil}, {5 * ms, up.beside(20), nil}}, probes: good, program: 20,
			finding: state.FindingHealthy, from: 5 * time.Second, to: 5100 * ms},
		{name: "a wrapper's other work comes first", units: []seenAt{{0, up.beside(19), nil}, {2 * time.Second, up.beside(20), nil}}, program: 20,
			probes:  map[string][]answers{"a": {{0, errRefused, false}, {3 * time.Second, nil, false}}},
			finding: state.FindingHealthy, from: 8 * time.Second, to: 9100 * ms},
		{name: "a wrapper starts the program again", units: []seenAt{{0, up.beside(20), nil}, {2 * time.Second, up.beside(21), nil}}, probes: good, fallen: true,
			finding: state.FindingBad, reason: "process 20, which ran /opt/x, ended, and another one runs it after 2", from: 2 * time.Second, to: 2600 * ms},
		{name: "a wrapper starts the program again, and systemd sends no event", units: []seenAt{{0, up.beside(20), nil}, {2 * time.Second, up.beside(21), nil}}, silent: true, fallen: true,
			finding: state.FindingBad, reason: "process 20, which ran /opt/x, ended, and another one runs it after 2", from: 2 * time.Second, to: 2600 * ms},
		{name: "a wrapper's program is gone", units: []seenAt{{0, up.beside(20), nil}, {2 * time.Second, up.runs(bash), nil}}, fallen: true,
			finding: state.FindingBad, reason: bash, from: 2 * time.Second, to: 2600 * ms},
		{name: "no main process", units: []seenAt{{0, unit("active", "running", 0).beside(20), nil}}, probes: good, program: 20,
			finding: state.FindingHealthy, from: 5 * time.Second, to: 5100 * ms},

		{name: "a oneshot remains", units: []seenAt{{0, remains, nil}}, probes: good, program: none,
			finding: state.FindingHealthy, from: 5 * time.Second, to: 5100 * ms},
		{name: "a oneshot is at work for a while", units: []seenAt{{0, starting, nil}, {4 * time.Second, remains, nil}}, program: none,
			finding: state.FindingHealthy, from: 9 * time.Second, to: 9 * time.Second},
		{name: "a oneshot fails", units: []seenAt{{0, starting, nil}, {4 * time.Second, failed, nil}}, fallen: true,
			finding: state.FindingBad, reason: "status 2 after 4 s", from: 4 * time.Second, to: 4 * time.Second},
		{name: "a oneshot is run again by somebody", units: []seenAt{{0, remains, nil}, {2 * time.Second, starting, nil}}, fallen: true,
			finding: state.FindingUnsure, reason: "changed from 0 to 10", from: 2 * time.Second, to: 2 * time.Second},

		{name: "asks for a restart", units: []seenAt{{0, up.run("A"), nil}, {1 * time.Second, asks.run("A"), nil}, {1100 * ms, asks.restarted(1).run("A"), nil}, {1200 * ms, unit("active", "running", 11).restarted(1).run("B"), nil}},
			probes: map[string][]answers{"a": {{0, errRefused, false}, {3 * time.Second, nil, false}}}, program: 11,
			finding: state.FindingHealthy, from: 8 * time.Second, to: 9100 * ms},
		{name: "asks for a restart, without probes", units: []seenAt{{0, up.run("A"), nil}, {1 * time.Second, asks.run("A"), nil}, {1200 * ms, unit("active", "running", 11).restarted(1).run("B"), nil}}, program: 11,
			finding: state.FindingHealthy, from: 6200 * ms, to: 6200 * ms},
		{name: "asked for a restart before the gate came", units: []seenAt{{0, up.restarted(1).run("B").asDeclared(), nil}}, probes: good,
			finding: state.FindingHealthy, from: 5 * time.Second, to: 5100 * ms},
		{name: "asks twice", units: []seenAt{{0, asks.run("A"), nil}, {100 * ms, up.restarted(1).run("B"), nil}, {200 * ms, asks.restarted(1).run("B"), nil}}, fallen: true,
			finding: state.FindingBad, reason: "its main process exited with status 75", from: 200 * ms, to: 200 * ms},
		{name: "asks twice, and is not seen down", units: []seenAt{{0, up.restarted(1).run("B").asDeclared(), nil}, {200 * ms, unit("active", "running", 12).restarted(2).run("C").asDeclared(), nil}}, fallen: true,
			finding: state.FindingBad, reason: "systemd restarted it", from: 200 * ms, to: 200 * ms},
		{name: "asked twice before the gate came", units: []seenAt{{0, up.restarted(2).run("C").asDeclared(), nil}}, fallen: true,
			finding: state.FindingBad, reason: "systemd restarted it", to: 0},
		{name: "asks when it has been healthy", units: []seenAt{{0, up.run("A"), nil}, {1 * time.Second, asks.run("A"), nil}}, probes: good, fallen: true,
			finding: state.FindingBad, reason: "its main process exited with status 75 after 1 s", from: 1 * time.Second, to: 1 * time.Second},
		{name: "asks, and what has passed before must pass again", units: []seenAt{{0, up.run("A"), nil}, {1 * time.Second, asks.run("A"), nil}, {1100 * ms, unit("active", "running", 11).restarted(1).run("B"), nil}},
			probes: map[string][]answers{"a": {{0, nil, false}, {500 * ms, errRefused, false}, {4 * time.Second, nil, false}}, "b": {{0, errRefused, false}, {2 * time.Second, nil, false}}}, program: 11,
			finding: state.FindingHealthy, from: 9 * time.Second, to: 10100 * ms},
		{name: "after a rollback: asks when no probe has proven it", lenient: true, fresh: true, settle: time.Second, program: 11,
			units:  []seenAt{{0, up.run("A"), nil}, {500 * ms, asks.run("A"), nil}, {600 * ms, unit("active", "running", 11).restarted(1).run("B"), nil}},
			probes: map[string][]answers{"a": always(errRefused)}, excused: "a",
			finding: state.FindingHealthy, from: 1600 * ms, to: 1700 * ms},
		{name: "asks, and does not come back", units: []seenAt{{0, asks.run("A"), nil}}, fallen: true,
			finding: state.FindingBad, reason: "not healthy within 30 s: systemd restarts it after an exit that it declares", from: 30 * time.Second, to: 30 * time.Second},
		{name: "asks, and crashes", units: []seenAt{{0, asks.run("A"), nil}, {100 * ms, up.restarted(1).run("B"), nil}, {200 * ms, crashed.restarted(1).run("B"), nil}}, fallen: true,
			finding: state.FindingBad, reason: "its main process exited with status 1", from: 200 * ms, to: 200 * ms},
		{name: "after a rollback: asks for a restart", lenient: true, fresh: true, settle: time.Second, program: 11,
			units:   []seenAt{{0, asks.run("A"), nil}, {100 * ms, unit("active", "running", 11).restarted(1).run("B"), nil}},
			finding: state.FindingHealthy, from: 1100 * ms, to: 1100 * ms},
		{name: "baseline: asks for a restart", lenient: true, units: []seenAt{{0, asks.run("A"), nil}}, fallen: true,
			finding: state.FindingBad, reason: "status 75", to: 0},

		{name: "bus lost at first", units: []seenAt{{0, unitState{}, errors.New("systemd does not answer: EOF")}}, fallen: true,
			finding: state.FindingUnsure, reason: "systemd does not answer", to: 0},
		{name: "bus lost in the settle time", units: []seenAt{{0, up, nil}, {3 * time.Second, unitState{}, errors.New("systemd does not answer: EOF")}}, probes: good, fallen: true,
			finding: state.FindingUnsure, reason: "systemd does not answer", from: 3 * time.Second, to: 3 * time.Second},
		{name: "ends while it is looked at", units: []seenAt{{0, unitState{}, errVanished}, {2 * ms, failed, nil}}, fallen: true,
			finding: state.FindingBad, reason: "status 2 at once", to: 2 * ms},
		{name: "an operator stops it", units: []seenAt{{0, up, nil}, {2 * time.Second, unit("deactivating", "stop-sigterm", 10).job(), nil}}, probes: good, fallen: true,
			finding: state.FindingUnsure, reason: "another job stops or restarts it", from: 2 * time.Second, to: 2 * time.Second},
		{name: "an operator restarts it", units: []seenAt{{0, up, nil}, {2 * time.Second, unit("active", "running", 12), nil}}, fallen: true,
			finding: state.FindingUnsure, reason: "changed from 10 to 12", from: 2 * time.Second, to: 2 * time.Second},
		{name: "somebody's SIGTERM", units: []seenAt{{0, up, nil}, {2 * time.Second, unit("inactive", "dead", 0).exited("success", systemd.Killed, 15), nil}}, fallen: true,
			finding: state.FindingUnsure, reason: "SIGTERM", from: 2 * time.Second, to: 2 * time.Second},
		{name: "somebody's SIGKILL", units: []seenAt{{0, up, nil}, {2 * time.Second, unit("activating", "auto-restart", 0).exited("signal", systemd.Killed, 9), nil}}, fallen: true,
			finding: state.FindingUnsure, reason: "SIGKILL", from: 2 * time.Second, to: 2 * time.Second},
		{name: "out of memory", units: []seenAt{{0, up, nil}, {2 * time.Second, unit("failed", "failed", 0).exited("oom-kill", systemd.Killed, 9), nil}}, fallen: true,
			finding: state.FindingBad, reason: "killed by SIGKILL (systemd says: oom-kill) after 2 s", from: 2 * time.Second, to: 2 * time.Second},
		{name: "an operator has stopped it", units: []seenAt{{0, up, nil}, {2 * time.Second, ended.stopped(), nil}}, fallen: true,
			finding: state.FindingUnsure, reason: "another program or the operator stopped it", from: 2 * time.Second, to: 2 * time.Second},
		{name: "an operator has stopped it, and it failed then", units: []seenAt{{0, up, nil}, {2 * time.Second, failed.stopped(), nil}}, fallen: true,
			finding: state.FindingUnsure, reason: "another program or the operator stopped it", from: 2 * time.Second, to: 2 * time.Second},
		{name: "it told systemd that it fails", units: []seenAt{{0, up, nil}, {2 * time.Second, failed.stopped().of("notify"), nil}}, fallen: true,
			finding: state.FindingBad, reason: "exited with status 2 after 2 s", from: 2 * time.Second, to: 2 * time.Second},
		{name: "a signal that systemd takes for a clean end", units: []seenAt{{0, up, nil}, {2 * time.Second, unit("inactive", "dead", 0).exited("success", systemd.Killed, 13), nil}}, fallen: true,
			finding: state.FindingBad, reason: "killed by SIGPIPE after 2 s", from: 2 * time.Second, to: 2 * time.Second},
		{name: "systemd's SIGTERM after a start timeout", units: []seenAt{{0, starting, nil}, {9 * time.Second, unit("failed", "failed", 0).exited("timeout", systemd.Killed, 15), nil}}, fallen: true,
			finding: state.FindingBad, reason: "killed by SIGTERM (systemd says: timeout) after 9 s", from: 9 * time.Second, to: 9 * time.Second},
		{name: "our own restart is not over", units: []seenAt{{0, unit("deactivating", "stop-sigterm", 9).job(), nil}, {1 * time.Second, up, nil}}, probes: good,
			finding: state.FindingHealthy, from: 6 * time.Second, to: 6100 * ms},

		{name: "baseline: a failed probe is not waited for", lenient: true, units: steady, settle: time.Second,
			probes: map[string][]answers{"a": always(errRefused), "b": {{0, errRefused, false}, {1 * time.Second, nil, false}}}, excused: "a",
			finding: state.FindingHealthy, from: 2 * time.Second, to: 2500 * ms},
		{name: "baseline: the first try of a probe that failed before is waited for", lenient: true, units: steady, settle: time.Second, probes: map[string][]answers{"a": {{0, nil, true}}}, excused: "a", tried: 1,
			finding: state.FindingHealthy, from: 3 * time.Second, to: 3100 * ms},
		{name: "baseline: another file runs, and its probes are tried", lenient: true, units: []seenAt{{0, up.runs(bash), nil}}, probes: good, tried: 1, fallen: true, unjudgeable: bash,
			finding: state.FindingBad, reason: bash, from: 30 * time.Second, to: 30 * time.Second},
		{name: "baseline: it still starts, and its probes are not tried", lenient: true, units: []seenAt{{0, starting, nil}}, probes: good, tried: -1, fallen: true,
			finding: state.FindingBad, reason: "still starting", from: 30 * time.Second, to: 30 * time.Second},
		{name: "baseline: an older file runs", lenient: true, units: []seenAt{{0, up.runsOlder("its main process still runs an older /opt/x"), nil}}, fallen: true,
			finding: state.FindingBad, reason: "still runs an older", from: 30 * time.Second, to: 30 * time.Second},
		{name: "baseline: a crash loop is seen while it starts", lenient: true, units: []seenAt{{0, up.runs(bash), nil}, {500 * ms, up.runs(bash).restarted(1), nil}}, fallen: true,
			finding: state.FindingBad, reason: "systemd restarted it", from: 500 * ms, to: 500 * ms},
		{name: "baseline: no answer is no failure", lenient: true, units: steady, settle: time.Second,
			probes: map[string][]answers{"a": always(noAnswer{errors.New("it may have been rotated away")})}, unknown: true,
			finding: state.FindingHealthy, from: time.Second, to: 1100 * ms},
		{name: "baseline: a probe that could not be tried is no failure", lenient: true, units: steady, settle: time.Second,
			probes: map[string][]answers{"a": always(notAsked{errors.New("cannot ask for the command")})}, unknown: true,
			finding: state.FindingHealthy, from: time.Second, to: 1600 * ms},
		{name: "a probe that could not be tried", units: steady, probes: map[string][]answers{"a": always(notAsked{errors.New("cannot ask for the command")})},
			finding: state.FindingUnsure, reason: "a could not be tried within 30 s: cannot ask for the command", from: 30 * time.Second, to: 30 * time.Second},
		{name: "no descriptors for a try in the settle time", units: steady, probes: map[string][]answers{"a": {{0, nil, false}, {2 * time.Second, errShort, false}, {3 * time.Second, nil, false}}},
			finding: state.FindingUnsure, reason: "a could not be tried again: too many open files in system", from: 2 * time.Second, to: 2600 * ms},
		{name: "no descriptors for any try", units: steady, probes: map[string][]answers{"a": always(errShort)},
			finding: state.FindingUnsure, reason: "a could not be tried within 30 s: too many open files", from: 30 * time.Second, to: 30 * time.Second},
		{name: "baseline: no descriptors count as a failure", lenient: true, units: steady, probes: map[string][]answers{"a": always(errShort)}, excused: "a", settle: -1,
			finding: state.FindingHealthy, to: time.Second},
		{name: "a probe that could not be tried again", units: steady, probes: map[string][]answers{"a": {{0, nil, false}, {2 * time.Second, notAsked{errors.New("cannot ask for the command")}, false}}},
			finding: state.FindingUnsure, reason: "a could not be tried again: cannot ask for the command", from: 2 * time.Second, to: 2700 * ms},
		{name: "a trial needs an answer", units: steady, probes: map[string][]answers{"a": always(noAnswer{errors.New("too many lines")})},
			finding: state.FindingBad, reason: "a did not pass within 30 s: too many lines", blamed: "a", from: 30 * time.Second, to: 30 * time.Second},
		{name: "no answer in the settle time", units: steady, probes: map[string][]answers{"a": {{0, nil, false}, {2 * time.Second, noAnswer{errors.New("not in time")}, false}}},
			finding: state.FindingUnsure, reason: "a could not be tried again: not in time", from: 2 * time.Second, to: 2700 * ms},
		{name: "a daemon that needs 40 s", units: steady, probes: map[string][]answers{"a": {{0, errRefused, false}, {40 * time.Second, nil, false}}},
			finding: state.FindingBad, reason: "a did not pass within 30 s: connection refused (hint: if x.service needs longer to start, raise health.timeout_seconds)", blamed: "a", from: 30 * time.Second, to: 30 * time.Second},
		{name: "a daemon that needs 40 s to be ready", units: []seenAt{{0, starting, nil}, {40 * time.Second, up, nil}}, probes: good, fallen: true,
			finding: state.FindingBad, reason: "not healthy within 30 s: it is still starting (start) (hint: if x.service needs longer to start, raise health.timeout_seconds)", from: 30 * time.Second, to: 30 * time.Second},
		{name: "a cause with a hint of its own", units: steady, probes: map[string][]answers{"a": always(errors.New("status 401 instead of 200 (hint: x)"))},
			finding: state.FindingBad, reason: "a did not pass within 30 s: status 401 instead of 200 (hint: x)", blamed: "a", from: 30 * time.Second, to: 30 * time.Second},
		{name: "a command's words", units: steady, probes: map[string][]answers{"a": always(errors.New("exited with status 1; it said: wait"))},
			finding: state.FindingBad, reason: "a did not pass within 30 s: exited with status 1 (hint: if x.service needs longer to start, raise health.timeout_seconds); it said: wait", blamed: "a", from: 30 * time.Second, to: 30 * time.Second},
		{name: "a mistake in the target file", units: steady, probes: map[string][]answers{"a": always(nil), "b": always(errMistake)},
			finding: state.FindingUnsure, reason: "b cannot judge any release: ca_file /x does not exist (hint: make it)", from: 30 * time.Second, to: 30 * time.Second},
		{name: "a mistake in the settle time", units: steady, probes: map[string][]answers{"a": {{0, nil, false}, {2 * time.Second, errMistake, false}}},
			finding: state.FindingUnsure, reason: "a could not be tried again: ca_file /x does not exist (hint: make it)", from: 2 * time.Second, to: 2700 * ms},
		{name: "baseline: a mistake in the target file", lenient: true, units: steady, probes: map[string][]answers{"a": always(errMistake)}, settle: time.Second, unknown: true,
			finding: state.FindingHealthy, unjudgeable: "a: ca_file /x does not exist (hint: make it)", from: time.Second, to: 1600 * ms},
		{name: "baseline: restarts of the past", lenient: true, units: []seenAt{{0, up.restarted(4), nil}}, settle: time.Second,
			finding: state.FindingHealthy, from: time.Second, to: time.Second},
		{name: "baseline: another restart", lenient: true, units: []seenAt{{0, up.restarted(4), nil}, {500 * ms, up.restarted(5), nil}}, settle: time.Second, fallen: true,
			finding: state.FindingBad, reason: "systemd restarted it", from: 500 * ms, to: 500 * ms},
		{name: "another program answers", units: steady, probes: map[string][]answers{"a": always(errStranger)},
			finding: state.FindingUnsure, reason: "a did not pass within 30 s: another program answers", from: 30 * time.Second, to: 30 * time.Second},
		{name: "another program answers at first", units: steady, probes: map[string][]answers{"a": {{0, errStranger, false}, {2 * time.Second, nil, false}}},
			finding: state.FindingHealthy, from: 7 * time.Second, to: 8100 * ms},
		{name: "another program answers one probe, none the other", units: steady, probes: map[string][]answers{"a": always(errRefused), "b": always(errStranger)},
			finding: state.FindingUnsure, reason: "b did not pass within 30 s: another program answers", from: 30 * time.Second, to: 30 * time.Second},
		{name: "another program answers what failed before, none the other", units: steady, probes: map[string][]answers{"a": always(errStranger), "b": always(errRefused)}, excused: "a",
			finding: state.FindingBad, reason: "b did not pass within 30 s: connection refused", blamed: "b", from: 30 * time.Second, to: 30 * time.Second},
		{name: "another program answers in the settle time", units: steady, probes: map[string][]answers{"a": {{0, nil, false}, {2 * time.Second, errStranger, false}}},
			finding: state.FindingUnsure, reason: "a failed 2 s into the settle time: another program answers", from: 2 * time.Second, to: 2700 * ms},
		{name: "another program answers because it crashed", fallen: true,
			units:   []seenAt{{0, up, nil}, {2030 * ms, unit("failed", "failed", 0).exited("signal", systemd.Killed, 11), nil}},
			probes:  map[string][]answers{"a": {{0, nil, false}, {1990 * ms, errStranger, false}}},
			finding: state.FindingBad, reason: "killed by SIGSEGV after 2 s", from: 2 * time.Second, to: 2100 * ms},
		{name: "nothing tells which program answers", units: steady, probes: map[string][]answers{"a": always(unowned{errors.New("cannot find out"), true})},
			finding: state.FindingUnsure, reason: "a did not pass within 30 s: cannot find out", from: 30 * time.Second, to: 30 * time.Second},
		{name: "baseline: another program answers", lenient: true, units: steady, probes: map[string][]answers{"a": always(errStranger)}, settle: time.Second,
			finding: state.FindingUnsure, reason: "another program answers", unjudgeable: "a: another program answers", from: 30 * time.Second, to: 30 * time.Second},
		{name: "baseline: nothing tells which program answers", lenient: true, units: steady, settle: -1,
			probes: map[string][]answers{"a": always(unowned{errors.New("cannot find out"), true})}, unknown: true,
			finding: state.FindingHealthy, unjudgeable: "a: cannot find out", to: time.Second},
		{name: "baseline: the other file is no worse than before", lenient: true, units: []seenAt{{0, up.runs(bash), nil}}, before: bash, settle: time.Second,
			finding: state.FindingHealthy, from: time.Second, to: time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				switch c.program {
				case 0:
					c.program = 10
				case none:
					c.program = 0
				}
				p := plan{units: []subject{{unit: "x.service", main: program{path: "/opt/x"}}}, timeout: 30 * time.Second, settle: 5 * time.Second, before: c.before, strict: !c.lenient, fresh: !c.lenient || c.fresh}
				if c.settle != 0 {
					p.settle = max(c.settle, 0)
				}
				for _, name := range []string{"a", "b"} {
					if script := c.probes[name]; script != nil {
						p.probes = append(p.probes, prober{name: name, key: "key of " + name, limit: answerLimit, excused: strings.Contains(c.excused, name),
							try: func(ctx context.Context, who peers) error {
								if len(who.units) != 1 {
									t.Errorf("a try knows the units %v", who.units)
								}
								return answer(ctx, script, time.Since(start))
							}})
					}
				}
				if c.version {
					p.probes = append(p.probes, prober{name: "version", limit: answerLimit, once: true, try: func(context.Context, peers) error { return nil }})
				}
				changes := make(chan struct{}, 1)
				for _, u := range c.units[1:] {
					if !c.silent {
						time.AfterFunc(u.at, func() { changes <- struct{}{} })
					}
				}
				look := func(context.Context, int) (unitState, error) {
					u := current(c.units, time.Since(start), func(u seenAt) time.Duration { return u.at })
					return u.is, u.err
				}
				out := watch(t.Context(), newTrial(p, start), look, changes, func(string) {})
				took := time.Since(start)
				if out.finding != c.finding || !strings.Contains(out.reason, c.reason) || (out.reason == "") != (c.reason == "") {
					t.Errorf("finding %q, reason %q, want %q, %q", out.finding, out.reason, c.finding, c.reason)
				}
				if out.unproven != c.unproven {
					t.Errorf("unproven: %v", out.unproven)
				}
				if out.blamed != c.blamed {
					t.Errorf("blamed: %q, want %q", out.blamed, c.blamed)
				}
				if out.standing == c.fallen || (out.why == "") == c.fallen {
					t.Errorf("standing: %v, %q", out.standing, out.why)
				}
				if tried := len(out.tried); c.tried != 0 && tried != max(c.tried, 0) {
					t.Errorf("%d probes were tried, want %d", tried, c.tried)
				}
				if took < c.from || took > c.to {
					t.Errorf("took %s, want %s to %s", took, c.from, c.to)
				}
				if c.finding == state.FindingHealthy && (out.pid != c.program || len(out.pids) > 0) {
					t.Errorf("process %d, want %d; of other units: %v", out.pid, c.program, out.pids)
				}
				if c.lenient && len(out.probes) > 0 && out.probes[0].Unknown != c.unknown {
					t.Errorf("the first probe is %+v", out.probes[0])
				}
				if c.lenient && out.unjudgeable != c.unjudgeable {
					t.Errorf("unjudgeable: %q", out.unjudgeable)
				}
				time.Sleep(time.Minute) // let the remaining changes come; no goroutine may be blocked
			})
		})
	}
}

func current[T any](script []T, now time.Duration, at func(T) time.Duration) T {
	i := len(script) - 1
	for i > 0 && at(script[i]) > now {
		i--
	}
	return script[i]
}

func answer(ctx context.Context, script []answers, now time.Duration) error {
	a := current(script, now, func(a answers) time.Duration { return a.at })
	if a.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return a.err
}

// TestTries shows that the first tries follow each other fast, because a late one
// prolongs the outage, and that later tries do not burden the machine.
func TestTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		p := plan{units: []subject{{unit: "x.service"}}, timeout: 10 * time.Second, settle: time.Second, strict: true, probes: []prober{{name: "a", limit: time.Second, try: func(context.Context, peers) error {
			at = append(at, time.Since(start))
			if time.Since(start) < 5*time.Second {
				return errRefused
			}
			return nil
		}}, {name: "version", limit: time.Second, once: true, try: func(context.Context, peers) error { return nil }}}}
		tried := 0
		p.probes[1].try = func(context.Context, peers) error { tried++; return nil }
		var said []string
		watch(t.Context(), newTrial(p, start), func(context.Context, int) (unitState, error) { return up, nil }, nil, func(s string) { said = append(said, s) })
		want := []time.Duration{0, 20 * ms, 60 * ms, 140 * ms, 300 * ms, 620 * ms, 1260 * ms, 2260 * ms, 3260 * ms, 4260 * ms, 5260 * ms, 5760 * ms}
		if !slices.Equal(at, want) {
			t.Errorf("tries at %v, want %v", at, want)
		}
		if tried != 1 {
			t.Errorf("version_command ran %d times", tried)
		}
		wantSaid := []string{"waiting for a (0 of 2 probes pass)", "waiting for a (1 of 2 probes pass)", "settling: 1 s left", "settling: 0.5 s left"}
		if !slices.Equal(said, wantSaid) {
			t.Errorf("said %q, want %q", said, wantSaid)
		}
	})
}

// TestLeft shows how long a try may take: no longer than the time that is left to become
// healthy, and its own limit in the settle time.
func TestLeft(t *testing.T) {
	start := time.Now()
	tr := newTrial(plan{timeout: 10 * time.Second, probes: []prober{{limit: 2 * time.Second}}}, start)
	for _, c := range []struct {
		at      time.Duration
		settles bool
		want    time.Duration
	}{
		{0, false, 2 * time.Second},
		{9 * time.Second, false, time.Second},
		{9 * time.Second, true, 2 * time.Second},
	} {
		if tr.settling = (time.Time{}); c.settles {
			tr.settling = start.Add(8 * time.Second)
		}
		if got := tr.left(start.Add(c.at), 0); got != c.want {
			t.Errorf("after %s: %s, want %s", c.at, got, c.want)
		}
	}
}

// TestLateLook: a gate that is held up at the end of the settle time, as on a machine that is
// too busy, still wakes to end the trial, unless a try of a probe that counts does so.
func TestLateLook(t *testing.T) {
	for _, trying := range []bool{false, true} {
		tr := newTrial(plan{strict: true, settle: 5 * time.Second, timeout: time.Minute, probes: []prober{{name: "a"}}}, time.Now())
		tr.probeEnded(tr.start, 0, nil)
		late := tr.settled().Add(time.Millisecond)
		tr.probes[0].busy = trying
		at, wakes := tr.nextWake(late)
		if wakes == trying || wakes && at.After(late) {
			t.Errorf("a try is running: %v; it wakes %v, at %s", trying, wakes, at.Sub(tr.start))
		}
		if tr.advance(late); (tr.end != nil) == trying {
			t.Errorf("a try is running: %v; the end is %+v", trying, tr.end)
		}
	}
}

// TestHeldUp: a good release is not to blame if the gate is frozen, or waits for systemd: a
// try meanwhile shows nothing, and the time does not count.
func TestHeldUp(t *testing.T) {
	for _, c := range []struct {
		name                       string
		frozen, silent, held, wait time.Duration // the second try, the second look, the loop, until the first success
		took                       time.Duration
	}{
		{name: "a try in the settle time", frozen: 10 * time.Second, took: 13 * time.Second},
		{name: "systemd is silent beyond the timeout", silent: 40 * time.Second, wait: time.Second, took: 45 * time.Second},
		{name: "the loop is held up beyond the timeout", held: 40 * time.Second, wait: time.Second, took: 45 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, tries, looks := time.Now(), 0, 0
				p := plan{units: []subject{{unit: "x.service"}}, timeout: 30 * time.Second, settle: 5 * time.Second, strict: true, probes: []prober{{name: "a", limit: answerLimit,
					try: func(context.Context, peers) error {
						if tries++; tries == 2 && c.frozen > 0 {
							time.Sleep(c.frozen)
							return context.DeadlineExceeded
						}
						if time.Since(start) < c.wait {
							return errRefused
						}
						return nil
					}}}}
				changes := make(chan struct{}, 1)
				look := func(context.Context, int) (unitState, error) {
					if looks++; looks == 2 {
						time.Sleep(c.silent)
					}
					return up, nil
				}
				if c.silent > 0 {
					changes <- struct{}{}
				}
				out := watch(t.Context(), newTrial(p, start), look, changes, func(string) { time.Sleep(c.held); c.held = 0 })
				if out.finding != state.FindingHealthy {
					t.Errorf("finding %q: %s", out.finding, out.reason)
				}
				if took := time.Since(start).Round(time.Second); took != c.took {
					t.Errorf("it took %s, want %s", took, c.took)
				}
			})
		})
	}
}

// TestFirstFailure: of two probes that fail one after the other, the first is blamed, at the
// time at which its failure counts.
func TestFirstFailure(t *testing.T) {
	tr := newTrial(plan{strict: true, settle: 5 * time.Second, timeout: time.Minute, probes: []prober{{name: "a"}, {name: "b"}}}, time.Now())
	tr.probeEnded(tr.start, 0, nil)
	tr.probeEnded(tr.start, 1, nil)
	at := tr.start.Add(2 * time.Second)
	tr.probeEnded(at, 0, errRefused)
	tr.probeEnded(at.Add(explained/2), 1, errRefused)
	tr.advance(at.Add(explained))
	if tr.end == nil || tr.end.blamed != "a" || !strings.HasPrefix(tr.end.reason, "a failed 2 s into the settle time") {
		t.Errorf("it ended with %+v", tr.end)
	}
}

// TestForgiven: after a restart that is forgiven a version_command that has passed need not run
// again, and one that has not run yet must.
func TestForgiven(t *testing.T) {
	for _, passed := range []bool{false, true} {
		tr := newTrial(plan{units: []subject{{unit: "x.service"}}, strict: true, fresh: true, timeout: time.Minute,
			probes: []prober{{name: "a"}, {name: "version", once: true}}}, time.Now())
		tr.unitSeen(tr.start, 0, up.run("A"))
		if passed {
			tr.probeEnded(tr.start, 1, nil)
		}
		tr.unitSeen(tr.start, 0, asks.run("A"))
		tr.unitSeen(tr.start, 0, up.restarted(1).run("B"))
		tr.probeEnded(tr.start, 0, nil)
		if (tr.end != nil) != passed || passed && tr.end.finding != state.FindingHealthy {
			t.Errorf("it has passed: %v; the end: %+v", passed, tr.end)
		}
	}
}

// TestTried shows that a probe that was never tried is not reported as failed.
func TestTried(t *testing.T) {
	tr := newTrial(plan{units: []subject{{unit: "x.service"}}, strict: true, probes: []prober{{name: "a"}, {name: "b"}}}, time.Now())
	tr.unitSeen(tr.start, 0, up)
	tr.startDue(tr.start)
	tr.probeEnded(tr.start, 1, errRefused)
	tr.stateUnknown(0, errors.New("bus"))
	if got := tr.end.tried; len(got) != 1 || got[0].Probe != "b" || len(tr.end.probes) != 2 {
		t.Errorf("tried: %v of %v", got, tr.end.probes)
	}
}

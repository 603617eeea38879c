package health

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// sight is a state that is seen of a unit, at a time after the begin of the trial.
type sight struct {
	at   time.Duration
	unit int
	is   unitState
}

func (s unitState) named(name string) unitState { s.Name = name; return s }

// passes returns the state as one of a oneshot that never stays active.
func (s unitState) passes() unitState { s.Type = "oneshot"; return s }

// TestKindsOfUnits judges what the kinds of units do in a trial. A probe of the kind tcp
// passes at once if it is tried.
func TestKindsOfUnits(t *testing.T) {
	idle := subject{unit: "a.service", idle: true, run: "old"}
	woken := subject{unit: "a.service", idle: true, run: "old", woken: true}
	a, b := subject{unit: "a.service"}, subject{unit: "b.service"}
	rests, works := ended.run("old"), unit("activating", "start", 7).passes().run("new")
	for _, c := range []struct {
		name   string
		units  []subject
		seen   []sight
		probe  bool
		fails  bool          // its tries fail
		within time.Duration // health.timeout_seconds if it matters
		want   state.Finding // "" if it is not over
		reason string
		asleep bool // the trial waits for the start of a unit
	}{
		{name: "none", want: state.FindingHealthy},
		{name: "idle", units: []subject{idle}, seen: []sight{{0, 0, rests}}, want: state.FindingHealthy},
		{name: "idle, its earlier run failed", units: []subject{idle}, seen: []sight{{0, 0, failed.run("old")}}, want: state.FindingHealthy},
		{name: "idle, a run fails", units: []subject{idle}, seen: []sight{{0, 0, failed.run("new")}}, want: state.FindingBad, reason: "its main process exited with status 2 at once"},
		{name: "idle, restarted long ago", units: []subject{idle}, seen: []sight{{0, 0, up.run("old").restarted(3)}}, want: state.FindingHealthy},
		{name: "idle, an earlier run is tried again", units: []subject{idle}, seen: []sight{{0, 0, crashed.run("old")}}, want: state.FindingHealthy},
		{name: "idle, a run crashes", units: []subject{idle}, seen: []sight{{0, 0, crashed.run("new")}}, want: state.FindingBad, reason: "its main process exited with status 1 at once"},
		{name: "a oneshot at work", units: []subject{idle}, seen: []sight{{0, 0, works}}, want: state.FindingHealthy},
		{name: "a oneshot ends its work", units: []subject{idle}, seen: []sight{{0, 0, unit("deactivating", "stop", 0).run("new")}}, want: state.FindingHealthy},
		{name: "a oneshot fails", units: []subject{idle}, seen: []sight{{0, 0, failed.run("new").passes()}}, want: state.FindingBad, reason: "its main process exited with status 2 at once"},
		{name: "idle, its file is gone", units: []subject{idle}, seen: []sight{{0, 0, func() unitState { s := rests; s.Load = "not-found"; return s }()}}, want: state.FindingBad, reason: "its unit file is not-found"},
		{name: "woken, not yet", units: []subject{woken}, seen: []sight{{0, 0, rests}}, probe: true, asleep: true},
		{name: "woken, never", units: []subject{woken}, seen: []sight{{0, 0, rests}, {2 * time.Second, 0, rests}}, probe: true, within: time.Second, want: state.FindingUnsure, asleep: true,
			reason: "a.service was not started within 1 s by the probes of its socket"},
		{name: "woken, starts", units: []subject{woken}, seen: []sight{{0, 0, rests}, {0, 0, starting.run("new")}}, probe: true},
		{name: "woken, runs", units: []subject{woken}, seen: []sight{{0, 0, rests}, {0, 0, up.run("new")}}, probe: true, want: state.FindingHealthy},
		{name: "woken, starts another process", units: []subject{woken}, seen: []sight{{0, 0, up.run("new")}, {0, 0, unit("active", "running", 11).run("newer")}}, probe: true, want: state.FindingHealthy},
		{name: "woken, runs another file", units: []subject{woken}, seen: []sight{{0, 0, up.run("new").runs(bash)}}, probe: true},
		{name: "woken, fails", units: []subject{woken}, seen: []sight{{0, 0, rests}, {0, 0, failed.run("new")}}, probe: true, want: state.FindingBad, reason: "its main process exited with status 2", asleep: false},
		{name: "several", units: []subject{a, b}, seen: []sight{{0, 0, up}, {0, 1, up}}, want: state.FindingHealthy},
		{name: "several, one not seen yet", units: []subject{a, b}, seen: []sight{{0, 0, up}}},
		{name: "several, one starts", units: []subject{a, b}, seen: []sight{{0, 0, up}, {0, 1, starting}}},
		{name: "several, one starts for ever", units: []subject{a, b}, seen: []sight{{0, 0, up}, {0, 1, starting}, {2 * time.Second, 1, starting}}, within: time.Second,
			want: state.FindingBad, reason: "not healthy within 1 s: b.service: it is still starting (start)"},
		{name: "several, and no answer", units: []subject{a, b}, seen: []sight{{0, 0, up}, {0, 1, up}, {2 * time.Second, 1, up}}, probe: true, fails: true, within: time.Second,
			want: state.FindingBad, reason: "tcp x did not pass within 1 s: connection refused (hint: if the program needs longer to start, raise health.timeout_seconds)"},
		{name: "several, the last crashes", units: []subject{a, b}, seen: []sight{{0, 0, up}, {0, 1, crashed}}, want: state.FindingBad, reason: "b.service: its main process exited with status 1 at once"},
		{name: "several, the first crashes", units: []subject{a, b}, seen: []sight{{0, 1, up}, {0, 0, crashed}}, want: state.FindingBad, reason: "a.service: its main process exited with status 1 at once"},
		{name: "several, one is restarted by hand", units: []subject{a, b}, seen: []sight{{0, 1, up}, {0, 1, unit("active", "running", 11)}}, want: state.FindingUnsure, reason: "b.service: its main process changed from 10 to 11"},
		{name: "several, one is idle", units: []subject{b, idle}, seen: []sight{{0, 0, up}, {0, 1, rests}}, want: state.FindingHealthy},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := plan{units: c.units, timeout: max(c.within, 10*time.Second), strict: true, fresh: true}
			if c.within > 0 {
				p.timeout = c.within
			}
			if c.probe {
				p.probes = []prober{{name: "tcp x", key: "x", owned: true}}
			}
			start := time.Now()
			tr := newTrial(p, start)
			tr.advance(start)
			for _, s := range c.seen {
				now := start.Add(s.at)
				tr.unitSeen(now, s.unit, s.is.named(c.units[s.unit].unit))
				for _, i := range tr.startDue(now) {
					if c.fails {
						tr.probeEnded(now, i, errRefused)
					} else {
						tr.probeEnded(now, i, nil)
					}
				}
			}
			got := outcome{}
			if tr.end != nil {
				got = *tr.end
			}
			if got.finding != c.want || !strings.HasPrefix(got.reason, c.reason) {
				t.Errorf("finding %q, reason %q, want %q, %q", got.finding, got.reason, c.want, c.reason)
			}
			for i, u := range c.units { // the commit compares these
				if pid := got.pids[u.unit]; got.finding == state.FindingHealthy && i > 0 && (pid != 0) == u.idle {
					t.Errorf("%s has process %d", u.unit, pid)
				}
			}
			if asleep := tr.asleep() != nil; asleep != c.asleep {
				t.Errorf("asleep: %v", asleep)
			}
		})
	}
}

// TestPrepare checks when there is nothing to watch, so that probes of a running program rest,
// and from when on the limit counts.
func TestPrepare(t *testing.T) {
	a, b := subject{unit: "a.service"}, subject{unit: "b.service"}
	idle := subject{unit: "c.service", idle: true}
	is := map[string]systemd.Unit{
		"a.service": {Load: "loaded", Active: "active", Began: 3 * time.Second},
		"b.service": {Load: "loaded", Active: "active", Began: 5 * time.Second},
		"c.service": {Load: "loaded", Active: "inactive", Began: time.Second, Triggers: []string{"c.socket"}, Invocation: "old"},
		"c.socket":  {Active: "active"},
	}
	reloaded := a
	reloaded.reloaded = true
	for _, c := range []struct {
		name    string
		units   []subject
		foreign bool // another program may answer the probe, so that it wakes no unit
		before  bool // the swap
		rests   bool
		woken   bool // the last unit
		began   time.Duration
	}{
		{name: "one", units: []subject{a}, began: 3 * time.Second},
		{name: "several", units: []subject{b, a}, began: 5 * time.Second},
		{name: "reloaded", units: []subject{reloaded}, began: 9 * time.Second},
		{name: "idle", units: []subject{idle}, foreign: true, rests: true},
		{name: "idle, and its socket is probed", units: []subject{idle}, woken: true},
		{name: "one of several is idle", units: []subject{a, idle}, foreign: true, began: 3 * time.Second},
		{name: "idle, before the swap", units: []subject{{unit: "c.service"}}, before: true, rests: true},
	} {
		h := target.Health{Probes: []target.Probe{{TCP: "127.0.0.1:1", Foreign: c.foreign}}}
		p := plan{target: &target.Target{Health: h}, units: slices.Clone(c.units), settle: time.Second, fresh: !c.before, began: 9 * time.Second, probes: probers(h, nil)}
		shared := p.probes
		began, err := p.prepare(t.Context(), fakeUnits{is: is})
		if err != nil || began != c.began {
			t.Errorf("%s: began at %s, %v", c.name, began, err)
		}
		if p.probes[0].resting != c.rests || (p.settle == 0) != c.rests || shared[0].resting {
			t.Errorf("%s: the probe rests: %v, settles for %s", c.name, p.probes[0].resting, p.settle)
		}
		if last := p.units[len(p.units)-1]; last.woken != c.woken || c.before && (!last.idle || last.run != "old") {
			t.Errorf("%s: %+v", c.name, last)
		}
	}
}

// TestRestingProbes: a probe that needs a running unit is not tried while none must run, and
// neither proves a release nor condemns it.
func TestRestingProbes(t *testing.T) {
	p := plan{units: []subject{{unit: "a.service", idle: true}}, timeout: time.Second, strict: true,
		probes: []prober{{name: "tcp x", key: "x", running: true, resting: true}, {name: "command y", key: "y"}}}
	start := time.Now()
	tr := newTrial(p, start)
	tr.unitSeen(start, 0, ended.named("a.service"))
	due := tr.startDue(start)
	if len(due) != 1 || due[0] != 1 {
		t.Fatalf("tried: %v", due)
	}
	tr.probeEnded(start, 1, nil)
	if tr.end == nil || tr.end.finding != state.FindingHealthy || tr.end.unproven {
		t.Fatalf("the outcome is %+v", tr.end)
	}
	if r := tr.end.probes[0]; !r.Unknown || r.Detail != state.NotTried || r.Passed {
		t.Errorf("the probe is %+v", r)
	}
}

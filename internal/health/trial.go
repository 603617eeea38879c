package health

import (
	"errors"
	"fmt"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

const (
	firstPause  = 20 * time.Millisecond  // before the second try of a probe; doubled at each
	longPause   = time.Second            // the longest before everything has passed
	settlePause = 500 * time.Millisecond // between tries in the settle time
	// explained is how long a probe that fails in the settle time waits for
	// systemd to say why: a process closes its sockets before it is gone.
	explained = 100 * time.Millisecond
)

// trial is a judgement under way: a state machine without clock or side effect.
// First everything must come right within the timeout; then it settles, and
// must stay right.
type trial struct {
	plan
	start  time.Time
	probes []probe

	seen     bool // there was a sight
	stand    standing
	why      string // why the unit does not stand
	stood    bool   // it has stood, with the main process pid
	pid      uint32
	last     sight     // the latest
	program  uint32    // the process that runs the program
	fixed    bool      // program was looked at in the settle time, and may not change any more
	blind    bool      // it could not be looked at
	forgiven string    // the run whose end, which its unit declares, is not held against it
	restarts uint32    // NRestarts that are not held against it
	lookAt   time.Time // when to look again although systemd tells nothing; zero: never
	looks    int

	settling time.Time // since when it settles; zero: not yet
	doom     string    // a probe's failure in the settle time
	doomAt   time.Time // when it counts
	doomed   string    // that probe
	blamed   string    // the probe for which alone the finding is bad
	end      *outcome
}

// probe is one probe's record.
type probe struct {
	prober
	tries   int
	busy    bool // a try is under way
	passed  bool // the last try did
	dropped bool // it failed before the swap too, and is not waited for any more
	unknown bool // the last try had no answer that says anything
	detail  string
	next    time.Time
	began   time.Time     // the last try
	took    time.Duration // that try
}

func newTrial(p plan, now time.Time) *trial {
	t := &trial{plan: p, start: now, why: "systemd has not told its state"}
	for _, p := range p.probes {
		t.probes = append(t.probes, probe{prober: p, next: now})
	}
	return t
}

// sees takes in a sight of the unit.
func (t *trial) sees(now time.Time, s sight) {
	if t.end != nil {
		return
	}
	if !t.seen && !t.strict {
		t.restarts = s.NRestarts
	}
	t.seen = true
	if !t.strict && s.foreign == t.before {
		s.foreign = "" // no worse than before the swap
	}
	t.last = s
	t.stand, t.why = s.stands()
	switch {
	case s.restarting() && t.forgives(s):
		t.stand, t.why = pending, "systemd restarts it after an exit that it declares"
	case t.stand != fallen && s.NRestarts > t.restarts && !t.forgives(s):
		t.stand, t.why = fallen, "its main process ended and systemd restarted it"
	}
	if t.stood && t.stand != fallen && t.stand != stopped && s.MainPID != t.pid {
		t.stand, t.why = stopped, fmt.Sprintf("its main process changed from %d to %d: somebody else restarted it, or it replaced itself", t.pid, s.MainPID)
	}
	switch {
	case t.stand == fallen:
		t.finish(state.FindingBad, t.why+t.lasted(now))
	case t.stand == stopped && (t.stood || s.Job == 0):
		t.finish(state.FindingUnsure, t.why)
	case t.stand == upright && t.fixed && s.aside != 0 && s.aside != t.program:
		t.stand, t.why = fallen, fmt.Sprintf("process %d, which ran %s, ended, and another one runs it", t.program, t.main.path)
		t.finish(state.FindingBad, t.why+t.lasted(now))
	case t.stand == upright:
		t.stood, t.pid, t.program, t.fixed = true, s.MainPID, s.pid(), !t.settling.IsZero()
	}
	// systemd does not tell when a process executes another file: its own child the
	// program, or a wrapper the daemon. Nor does it tell when another process than
	// the main one ends.
	t.lookAt = time.Time{}
	switch {
	case s.foreign != "":
		t.looks++
		t.lookAt = now.Add(pause(t.looks))
	case s.aside != 0 && !t.settling.IsZero():
		t.lookAt = now.Add(settlePause)
	}
	t.advance(now)
}

// hears takes in the outcome of a try of a probe.
func (t *trial) hears(now time.Time, i int, err error) {
	p := &t.probes[i]
	p.busy, p.passed, p.detail = false, err == nil, ""
	p.tries++
	p.took = now.Sub(p.began)
	p.next = now.Add(pause(p.tries))
	if !t.settling.IsZero() {
		p.next = now.Add(settlePause)
	}
	if err != nil {
		p.detail = err.Error()
	}
	_, p.unknown = errors.AsType[noAnswer](err)
	if err != nil && !t.settling.IsZero() && !p.dropped && t.doom == "" {
		if p.excused {
			p.dropped = true
		} else {
			t.doom = fmt.Sprintf("%s failed %s into the settle time: %s", p.name, seconds(now.Sub(t.settling)), p.detail)
			t.doomAt, t.doomed = now.Add(explained), p.name
		}
	}
	t.advance(now)
}

// unjudgeable says why no program could be judged here: the unit is up, by systemd's
// view, and nothing of it runs the main file, or not even that can be found out. A
// file that was replaced by hand is another matter: the next restart cures that.
func (t *trial) unjudgeable() string {
	if t.blind || t.stand == pending && t.last.foreign == t.why && !t.last.older {
		return t.why
	}
	return ""
}

// lost takes in that the unit's state cannot be told.
func (t *trial) lost(err error) {
	t.stand, t.why, t.blind = pending, err.Error(), true
	t.finish(state.FindingUnsure, t.why)
}

// advance takes in the time.
func (t *trial) advance(now time.Time) {
	switch {
	case t.end != nil:
		return
	case t.doom != "":
		if !now.Before(t.doomAt) {
			t.blamed = t.doomed
			t.finish(state.FindingBad, t.doom)
		}
		return
	case t.settling.IsZero():
		over := !now.Before(t.start.Add(t.timeout))
		if !t.ready(over) {
			if over {
				t.overdue()
			}
			return
		}
		t.settling = now
		for i := range t.probes {
			p := &t.probes[i]
			p.dropped = !p.passed
			p.next = now.Add(settlePause)
		}
		// What a wrapper did before it started the program is over now.
		if t.last.aside != 0 {
			t.lookAt = now
		}
	case t.stand != upright:
		t.finish(state.FindingBad, t.why+t.lasted(now))
		return
	}
	if !now.Before(t.settled()) && !t.waiting() {
		t.finish(state.FindingHealthy, "")
	}
}

// ready tells whether everything that counts is right. An excused probe that
// fails is waited for until the timeout is over, or without strictness not
// beyond its first try, as one that has no answer.
func (t *trial) ready(over bool) bool {
	if t.stand != upright {
		return false
	}
	for _, p := range t.probes {
		if !p.passed && !(p.excused && (over || !t.strict && p.tries > 0)) && !(p.unknown && !t.strict) {
			return false
		}
	}
	return true
}

// overdue ends a trial that was not right within the timeout.
func (t *trial) overdue() {
	within := " within " + seconds(t.timeout)
	switch {
	case t.stand != upright && t.why == t.before && !t.lookAt.IsZero():
		t.finish(state.FindingUnsure, t.why+`, as before the swap (hint: write main = "" below [health])`)
	case t.stand != upright:
		t.finish(state.FindingBad, "not healthy"+within+": "+t.why)
	}
	for _, p := range t.probes {
		if t.end == nil && !p.passed && !p.excused {
			detail := p.detail
			if detail == "" {
				detail = "no answer"
			}
			t.blamed = p.name
			t.finish(state.FindingBad, p.name+" did not pass"+within+": "+detail)
		}
	}
}

// probing tells whether probes are tried: not before the unit stands, for
// another program might answer. A baseline wants to know of the program that
// runs, also when that is not the main file.
func (t *trial) probing() bool {
	return t.stand == upright || !t.strict && !t.lookAt.IsZero()
}

// due starts tries: it returns the probes whose time has come.
func (t *trial) due(now time.Time) []int {
	if t.end != nil || !t.probing() || t.doom != "" || !t.settling.IsZero() && !now.Before(t.settled()) {
		return nil
	}
	var is []int
	for i := range t.probes {
		p := &t.probes[i]
		if p.idle() && !now.Before(p.next) {
			p.busy, p.began = true, now
			is = append(is, i)
		}
	}
	return is
}

// wake is the next moment at which time alone changes something; false when
// only an event can.
func (t *trial) wake(now time.Time) (time.Time, bool) {
	var times []time.Time
	switch {
	case t.doom != "":
		return t.doomAt, true
	case t.settling.IsZero():
		times = append(times, t.start.Add(t.timeout))
	case now.Before(t.settled()):
		times = append(times, t.settled())
	default:
		return time.Time{}, false // tries that began in time are waited for
	}
	if !t.lookAt.IsZero() {
		times = append(times, t.lookAt)
	}
	for _, p := range t.probes {
		if t.probing() && p.idle() {
			times = append(times, p.next)
		}
	}
	first := times[0]
	for _, at := range times[1:] {
		if at.Before(first) {
			first = at
		}
	}
	return first, true
}

// idle tells whether the probe is to be tried at its time.
func (p *probe) idle() bool { return !p.busy && !p.dropped && !(p.once && p.passed) }

// waiting tells whether a try that counts is under way.
func (t *trial) waiting() bool {
	for _, p := range t.probes {
		if p.busy && !p.dropped {
			return true
		}
	}
	return false
}

func (t *trial) settled() time.Time { return t.settling.Add(t.settle) }

// left is how long a try may take that begins now.
func (t *trial) left(now time.Time, i int) time.Duration {
	if t.settling.IsZero() {
		return min(t.probes[i].limit, t.start.Add(t.timeout).Sub(now))
	}
	return t.probes[i].limit
}

// pause is the time between the n-th and the next try.
func pause(n int) time.Duration { return min(firstPause<<min(n-1, 16), longPause) }

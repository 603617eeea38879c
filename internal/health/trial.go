package health

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

const (
	firstPause  = 20 * time.Millisecond  // before the second try of a probe; doubled at each
	longPause   = time.Second            // the longest before everything has passed
	settlePause = 500 * time.Millisecond // between tries in the settle time
	// explained is how long a failure of a probe in the settle time waits for systemd to
	// report the end of the process, which closes its sockets before it exits.
	explained = 100 * time.Millisecond
)

// trial is a running judgement: a state machine without clock and side effects. First
// each unit must be up and each probe must pass, within the timeout; then both must
// stay so for the settle time.
type trial struct {
	plan
	start  time.Time
	units  []*watched
	probes []probe

	settling    time.Time // the begin of the settle time; zero: not begun
	failure     string    // a failure of a probe in the settle time
	failureDue  time.Time // when the failure counts
	failedProbe string    // the probe that failed
	blamed      string    // the probe for which alone the finding is bad
	end         *outcome
}

// probe is the record of one probe.
type probe struct {
	prober
	tries   int
	busy    bool // a try is under way
	passed  bool // the last try passed
	dropped bool // it failed before the swap, too, and no longer counts
	unknown bool // the last try gave no evidence for or against the program
	unasked bool // the last try failed before it reached the program
	mistake bool // the last try shows a mistake of the target file
	unowned bool // the answer cannot be ascribed to the unit
	detail  string
	next    time.Time
	began   time.Time     // when the last try began
	took    time.Duration // how long it took
}

func newTrial(p plan, now time.Time) *trial {
	t := &trial{plan: p, start: now}
	for _, u := range p.units {
		t.units = append(t.units, &watched{subject: u, why: "systemd has not told its state"})
	}
	for _, p := range p.probes {
		t.probes = append(t.probes, probe{prober: p, next: now})
	}
	return t
}

// probeEnded records the outcome of a try of a probe.
func (t *trial) probeEnded(now time.Time, i int, err error) {
	p := &t.probes[i]
	if held, ok := errors.AsType[heldUp](err); ok {
		p.busy, p.next = false, now
		t.wasHeldUp(held.by)
		t.advance(now)
		return
	}
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
	_, silent := errors.AsType[noAnswer](err)
	p.unknown = silent
	_, p.unasked = errors.AsType[notAsked](err)
	other, unowned := errors.AsType[unowned](err)
	p.unowned = unowned
	_, p.mistake = errors.AsType[mistaken](err)
	p.unknown = p.unknown || p.unasked || p.mistake || other.unknown
	if _, lacks := errors.AsType[lacking](err); lacks {
		p.unasked = true
	}
	if err != nil && !t.settling.IsZero() && !p.dropped && t.failure == "" {
		if p.excused {
			p.dropped = true
		} else if p.unasked || p.mistake || silent {
			t.finish(state.FindingUnsure, p.name+" could not be tried again: "+p.detail)
		} else {
			t.failure = fmt.Sprintf("%s failed %s into the settle time: %s", p.name, seconds(now.Sub(t.settling)), p.detail)
			t.failureDue, t.failedProbe = now.Add(explained), p.name
		}
	}
	t.advance(now)
}

// heldUp is the error of a try that ended later than it could, because this process was held
// up: it was frozen or stopped, or waited for systemd. Such a try shows nothing.
type heldUp struct{ by time.Duration }

func (h heldUp) Error() string { return "the gate was held up for " + seconds(h.by) }

// slip is how much later than planned something may happen in a process that is not held up.
const slip = time.Second

// wasHeldUp prolongs the trial by a time in which nothing could be seen of the program. The
// deadline of the trial bounds that.
func (t *trial) wasHeldUp(by time.Duration) {
	t.start = t.start.Add(by)
	if !t.settling.IsZero() {
		t.settling = t.settling.Add(by)
	}
}

// advance changes the state as the time requires.
func (t *trial) advance(now time.Time) {
	switch {
	case t.end != nil:
		return
	case t.failure != "":
		if !now.Before(t.failureDue) {
			if t.contested() != nil {
				t.finish(state.FindingUnsure, t.failure)
				return
			}
			t.blamed = t.failedProbe
			t.finish(state.FindingBad, t.failure)
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
			p.dropped = !p.passed || p.resting
			p.next = now.Add(settlePause)
		}
		// Read again which process runs the program: a wrapper has started it by now.
		for _, w := range t.units {
			if w.last.aside != 0 {
				w.lookAt = now
			}
		}
	case t.stands() != standingUp:
		t.finish(state.FindingBad, t.why()+t.lasted(now))
		return
	}
	if !now.Before(t.settled()) && !t.waiting() {
		t.finish(state.FindingHealthy, "")
	}
}

// ready reports whether the unit is up and each probe that counts has passed. over says
// that the timeout is over. An excused probe that fails is waited for until then; in a
// trial that is not strict, only for its first try, as is one without evidence.
func (t *trial) ready(over bool) bool {
	if t.stands() != standingUp {
		return false
	}
	for _, p := range t.probes {
		if !p.passed && !p.resting && !(p.excused && (over || !t.strict && p.tries > 0)) && !(p.unknown && !t.strict) {
			return false
		}
	}
	return t.asleep() == nil
}

// contested returns a probe that counts and whose answer cannot be ascribed to the unit;
// nil if there is none. Such a trial is never bad for a probe: each local user may take
// what the program needs.
func (t *trial) contested() *probe {
	for i := range t.probes {
		if p := &t.probes[i]; p.unowned && !p.excused {
			return p
		}
	}
	return nil
}

// overdue ends a trial whose unit or probes were not healthy within the timeout.
func (t *trial) overdue() {
	within := " within " + seconds(t.timeout)
	// The timeout may be too short for a good release.
	slow := "the program"
	if w := t.worst(); w != nil && (w.stand != standingUp || len(t.units) == 1) {
		slow = w.unit
	}
	longer := "if " + slow + " needs longer to start, raise health.timeout_seconds"
	switch {
	case t.stands() != standingUp && t.why() == t.before && !t.worst().lookAt.IsZero():
		t.finish(state.FindingUnsure, t.why()+`, as before the swap (hint: write main = "" below [health])`)
	case t.stands() != standingUp:
		t.finish(state.FindingBad, state.WithHint("not healthy"+within+": "+t.why(), longer))
	}
	if p := t.contested(); t.end == nil && p != nil {
		t.finish(state.FindingUnsure, p.name+" did not pass"+within+": "+p.detail)
	}
	for _, p := range t.probes {
		if t.end != nil || p.passed || p.excused || p.resting {
			continue
		}
		detail := cmp.Or(p.detail, "no answer")
		switch {
		case p.unasked:
			t.finish(state.FindingUnsure, p.name+" could not be tried"+within+": "+detail)
		case p.mistake:
			t.finish(state.FindingUnsure, p.name+" cannot judge any release: "+detail)
		default:
			t.blamed = p.name
			t.finish(state.FindingBad, state.WithHint(p.name+" did not pass"+within+": "+detail, longer))
		}
	}
	if w := t.asleep(); t.end == nil && w != nil {
		t.finish(state.FindingUnsure, w.unit+" was not started"+within+" by the probes of its socket")
	}
}

// probing reports whether probes are tried. They are not before the unit is up, because
// another program might answer. A baseline tries them also if the program that runs is
// not the main file.
func (t *trial) probing() bool {
	for _, w := range t.units {
		if w.stand != standingUp && (t.strict || w.lookAt.IsZero()) {
			return false
		}
	}
	return true
}

// startDue returns the probes that are due and marks them as running.
func (t *trial) startDue(now time.Time) []int {
	if t.end != nil || !t.probing() || t.failure != "" || !t.settling.IsZero() && !now.Before(t.settled()) {
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

// nextWake returns the next time at which the state changes without an event; false if
// only an event changes it.
func (t *trial) nextWake(now time.Time) (time.Time, bool) {
	var times []time.Time
	switch {
	case t.failure != "":
		return t.failureDue, true
	case t.settling.IsZero():
		times = append(times, t.start.Add(t.timeout))
	case !now.Before(t.settled()) && t.waiting():
		return time.Time{}, false // wait for tries that began in the settle time
	default: // perhaps past already, if this process was held up
		times = append(times, t.settled())
	}
	for _, w := range t.units {
		if !w.lookAt.IsZero() {
			times = append(times, w.lookAt)
		}
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

// idle reports whether a new try of the probe may begin.
func (p *probe) idle() bool { return !p.busy && !p.dropped && !p.resting && !(p.once && p.passed) }

// waiting reports whether a try of a probe that counts is running.
func (t *trial) waiting() bool {
	for _, p := range t.probes {
		if p.busy && !p.dropped {
			return true
		}
	}
	return false
}

func (t *trial) settled() time.Time { return t.settling.Add(t.settle) }

// left returns how long a try that begins now may take.
func (t *trial) left(now time.Time, i int) time.Duration {
	if t.settling.IsZero() {
		return min(t.probes[i].limit, t.start.Add(t.timeout).Sub(now))
	}
	return t.probes[i].limit
}

// pause returns the time between try n and the next one.
func pause(n int) time.Duration { return min(firstPause<<min(n-1, 16), longPause) }

package health

import (
	"fmt"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// outcome is the end of a judgement.
type outcome struct {
	finding  state.Finding
	reason   string
	unproven bool
	blamed   string // the only probe that makes the finding bad
	standing bool
	why      string            // why the unit is not up
	pid      uint32            // of the first unit's program
	pids     map[string]uint32 // of the other units'
	probes   []state.ProbeResult
	tried    []state.ProbeResult // those that were tried

	unjudgeable string // why no trial can be judged; see [state.Baseline]
}

// finish ends the judgement.
func (t *trial) finish(f state.Finding, reason string) {
	o := &outcome{finding: f, reason: oneLine(reason), blamed: t.blamed, standing: t.stands() == standingUp, why: oneLine(t.why()),
		unjudgeable: oneLine(t.unjudgeable())}
	for i, w := range t.units {
		if i == 0 {
			o.pid = w.program
			continue
		}
		if o.pids == nil {
			o.pids = map[string]uint32{}
		}
		o.pids[w.unit] = w.program
	}
	asked, proven := false, false
	for _, p := range t.probes {
		r := state.ProbeResult{Probe: p.name, Key: p.key, Passed: p.passed, Detail: p.detail, Unknown: p.unknown || p.resting, Millis: p.took.Milliseconds()}
		if p.passed {
			r.Detail = p.answer
		}
		if p.tries > 0 {
			o.tried = append(o.tried, r)
		} else {
			r.Detail = state.NotTried
		}
		o.probes = append(o.probes, r)
		// The program's version proves what was installed, but not that it serves.
		asked = asked || p.key != "" && !p.resting
		proven = proven || p.key != "" && p.passed && !p.dropped
	}
	if t.strict && f == state.FindingHealthy && asked && !proven {
		o.unproven, o.reason = true, "no probe proves it, for none ever passed here: "+state.Causes(o.probes)
	}
	t.end = o
}

// status describes the progress of the judgement in one line.
func (t *trial) status(now time.Time) string {
	switch {
	case t.stands() != standingUp:
		return "waiting for " + t.worst().unit + ": " + t.worst().why
	case !t.settling.IsZero():
		return "settling: " + seconds(max(0, t.settled().Sub(now))) + " left"
	}
	passed, first := 0, ""
	for _, p := range t.probes {
		if p.passed || p.resting {
			passed++
		} else if first == "" {
			first = p.name
		}
	}
	return fmt.Sprintf("waiting for %s (%d of %d probes pass)", first, passed, len(t.probes))
}

// lasted describes how long after the begin of the trial something happened.
func (t *trial) lasted(now time.Time) string {
	if d := now.Sub(t.start); d >= time.Second {
		return " after " + seconds(d)
	}
	return " at once"
}

// Summary describes a baseline in one line, for the log.
func Summary(b state.Baseline) string {
	passed := 0
	for _, p := range b.Probes {
		if p.Passed {
			passed++
		}
	}
	line := fmt.Sprintf("%d of %d probes pass", passed, len(b.Probes))
	if !b.Standing {
		line += "; the unit is not as it must be: " + b.Detail
	}
	return line
}

// Verdict describes a report in one line, for the log.
func Verdict(r state.Report) string {
	switch {
	case r.Unproven:
		return string(r.Finding) + ", unproven: " + r.Reason
	case r.Reason != "":
		return string(r.Finding) + ": " + r.Reason
	}
	return string(r.Finding)
}

// seconds formats a duration for people: "30 s", "0.3 s".
func seconds(d time.Duration) string {
	return fmt.Sprintf("%g s", d.Round(100*time.Millisecond).Seconds())
}

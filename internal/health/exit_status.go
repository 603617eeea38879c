package health

import (
	"context"
	"time"
)

// forgives reports whether the restart that was seen is not held against the program:
// the first one, after an exit that its unit declares, before it was healthy. A
// daemon that migrates its data asks for one like that. From the program that
// systemd starts then, everything is expected as from the first one.
func (t *trial) forgives(s sight) bool {
	switch {
	case s.restarting() && t.forgiven != "" && t.forgiven == s.Invocation:
		return true // the same one: it waits for its RestartSec=
	case !t.fresh || !s.declared || t.forgiven != "" || t.proven() || s.NRestarts > t.restarts+1:
		return false
	}
	t.forgiven = "over" // which run it was is not known
	if s.restarting() {
		t.forgiven = s.Invocation
	}
	t.restarts++
	t.stood, t.fixed, t.settling = false, false, time.Time{}
	for i := range t.probes {
		p := &t.probes[i]
		p.passed, p.dropped = p.once && p.passed, false
	}
	return true
}

// proven reports whether the program was healthy once, by a probe of its service.
func (t *trial) proven() bool {
	if t.settling.IsZero() {
		return false
	}
	for _, p := range t.probes {
		if p.passed && !p.once {
			return true
		}
	}
	return false
}

// exits finds out whether the unit's main process ended as the unit declares.
type exits struct {
	since time.Time // of the trial
	asked bool      // once is enough, for only the first end is forgiven
}

// declared judges the last end of the main process. systemd forgets how that was
// when it starts the program again; then its own lines in the journal tell.
func (e *exits) declared(ctx context.Context, s sight) bool {
	switch {
	case s.Forced.Empty() && s.Clean.Empty():
		return false
	case s.restarting():
		e.asked = e.asked || s.Declares(s.ExecCode, s.ExecValue)
		return s.Declares(s.ExecCode, s.ExecValue)
	case e.asked || s.NRestarts != 1:
		return false
	}
	e.asked = true
	end, err := lastEnd(ctx, s.Name, s.LogNamespace, e.since)
	return err == nil && (end.known && s.Declares(end.code, end.value) || end.clean && !s.Clean.Empty())
}

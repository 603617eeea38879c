package health

import (
	"context"
	"time"
)

// forgives reports whether a restart by systemd does not count against the program. It
// does not if it is the first one, follows an exit that the unit declares, and comes
// before the program was healthy: a daemon that migrates its data may ask for one. The
// trial then expects everything of the program that systemd starts.
func (t *trial) forgives(w *watched, s unitState) bool {
	switch {
	case s.restarting() && w.forgiven != "" && w.forgiven == s.Invocation:
		return true // the same restart, which waits for RestartSec=
	case !t.fresh || !s.declared || w.forgiven != "" || t.proven() || s.NRestarts > w.restarts+1:
		return false
	}
	w.forgiven = "over" // the invocation is not known
	if s.restarting() {
		w.forgiven = s.Invocation
	}
	w.restarts++
	w.wasUp, w.fixed, t.settling = false, false, time.Time{}
	for i := range t.probes {
		p := &t.probes[i]
		p.passed, p.dropped = p.once && p.passed, false
	}
	return true
}

// proven reports whether the program was healthy once and a probe of its service passed.
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
	since time.Time // the begin of the trial
	asked bool      // the journal was read; only the first end can be forgiven
}

// declared reports whether the main process last ended with an exit that the unit
// declares. systemd forgets the exit when it starts the program again; then declared
// reads it from systemd's entries in the journal.
func (e *exits) declared(ctx context.Context, s unitState) bool {
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

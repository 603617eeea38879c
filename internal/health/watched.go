package health

import (
	"fmt"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// subject is a unit that a judgement watches.
type subject struct {
	unit string
	main program
	// idle says that the unit waits for what starts it, and need not be active. run is the
	// invocation ID of its last run before, whose end says nothing about the program.
	idle bool
	run  string
	// woken says that probes start an idle unit, through its socket.
	woken bool
	// reloaded says that the unit was not restarted: the main process itself must have
	// executed the main file, since a process beside it may be about to take its place.
	reloaded bool
}

// watched is what a trial knows of a unit.
type watched struct {
	subject

	seen       bool // the state was read at least once
	stand      standing
	why        string // why the unit is not up
	wasUp      bool   // it was up, with the main process pid
	pid        uint32
	last       unitState // the latest state
	program    uint32    // the process that runs the program
	fixed      bool      // program was read in the settle time, and must not change from then on
	unreadable bool      // the state could not be read
	forgiven   string    // the run whose end is forgiven, because the unit declares it
	restarts   uint32    // NRestarts that do not count
	lookAt     time.Time // when to read the state again without an event of systemd; zero: never
	looks      int
}

// worst returns the unit that is farthest from being up; nil if there is no unit.
func (t *trial) worst() *watched {
	var worst *watched
	rank := map[standing]int{standingUp: 0, standingPending: 1, standingInterrupted: 2, standingDown: 3}
	for _, w := range t.units {
		if worst == nil || rank[w.stand] > rank[worst.stand] {
			worst = w
		}
	}
	return worst
}

// stands returns how all units stand together. A target without a unit stands.
func (t *trial) stands() standing {
	if w := t.worst(); w != nil {
		return w.stand
	}
	return standingUp
}

// why returns why a unit is not up; "" if all are.
func (t *trial) why() string {
	if w := t.worst(); w != nil {
		return t.about(w, w.why)
	}
	return ""
}

// about names the unit in a text about it, if there are several.
func (t *trial) about(w *watched, text string) string {
	if len(t.units) < 2 || text == "" {
		return text
	}
	return w.unit + ": " + text
}

// unitSeen records a state of unit i.
func (t *trial) unitSeen(now time.Time, i int, s unitState) {
	if t.end != nil {
		return
	}
	w := t.units[i]
	if !w.seen && !t.strict {
		w.restarts = s.NRestarts
	}
	w.seen = true
	if !t.strict && t.before != "" && t.about(w, s.foreign) == t.before {
		s.foreign = "" // no worse than before the swap
	}
	w.last = s
	w.stand, w.why = w.classify(s)
	switch {
	case s.restarting() && t.forgives(w, s):
		w.stand, w.why = standingPending, "systemd restarts it after an exit that it declares"
	case w.stand != standingDown && !w.idle && s.NRestarts > w.restarts && !t.forgives(w, s):
		w.stand, w.why = standingDown, "its main process ended and systemd restarted it"
	}
	if w.wasUp && w.stand != standingDown && w.stand != standingInterrupted && s.MainPID != w.pid {
		w.stand, w.why = standingInterrupted, fmt.Sprintf("its main process changed from %d to %d: another program or the operator restarted it, or it replaced itself", w.pid, s.MainPID)
	}
	switch {
	case w.stand == standingDown:
		t.finish(state.FindingBad, t.about(w, w.why)+t.lasted(now))
	case w.stand == standingInterrupted && (w.wasUp || s.Job == 0):
		t.finish(state.FindingUnsure, t.about(w, w.why))
	case w.stand == standingUp && w.fixed && s.aside != 0 && s.aside != w.program:
		w.stand, w.why = standingDown, fmt.Sprintf("process %d, which ran %s, ended, and another one runs it", w.program, w.main.path)
		t.finish(state.FindingBad, t.about(w, w.why)+t.lasted(now))
	case w.stand == standingUp && !w.idle:
		w.wasUp, w.pid, w.program, w.fixed = true, s.MainPID, s.pid(), !t.settling.IsZero()
	}
	// systemd sends no event when a process executes another file, as a wrapper does, nor
	// when another process than the main one ends.
	w.lookAt = time.Time{}
	switch {
	case s.foreign != "":
		w.looks++
		w.lookAt = now.Add(pause(w.looks))
	case s.aside != 0 && !t.settling.IsZero():
		w.lookAt = now.Add(settlePause)
	}
	t.advance(now)
}

// classify returns how the unit stands, and why it is not up. An idle unit may rest, and a
// run of it may begin and end at any time; only a run that failed shows something.
func (w *watched) classify(s unitState) (standing, string) {
	stand, why := s.classify()
	switch {
	case !w.idle || s.Load != "loaded":
	case s.Active == "inactive", s.Active == "deactivating",
		(s.Active == "failed" || s.restarting()) && s.Invocation == w.run,
		s.Active == "activating" && s.Passes() && !s.restarting():
		return standingUp, ""
	}
	return stand, why
}

// asleep returns an idle unit that the probes of its socket must start and that has not
// been started yet; nil if there is none. systemd accepts a connection for it before it
// starts.
func (t *trial) asleep() *watched {
	for _, w := range t.units {
		if w.woken && t.strict && w.last.Invocation == w.run {
			return w
		}
	}
	return nil
}

// unjudgeable returns why no trial of these units could be judged: a unit is active but
// no process of it runs the main file, or its processes cannot be read, or the answer of a
// probe cannot be ascribed to it, or a probe is mistaken. A process that runs an older
// file, which was replaced by hand, is no reason: the next restart ends it.
func (t *trial) unjudgeable() string {
	for _, w := range t.units {
		if w.unreadable || w.stand == standingPending && w.last.foreign == w.why && !w.last.older {
			return t.about(w, w.why)
		}
	}
	if t.stands() != standingUp {
		return ""
	}
	for i := range t.probes {
		if p := &t.probes[i]; p.mistake {
			return p.name + ": " + p.detail
		}
	}
	if p := t.contested(); p != nil {
		return p.name + ": " + p.detail
	}
	return ""
}

// stateUnknown ends the trial because the state of unit i cannot be read.
func (t *trial) stateUnknown(i int, err error) {
	w := t.units[i]
	w.stand, w.why, w.unreadable = standingPending, err.Error(), true
	t.finish(state.FindingUnsure, t.about(w, w.why))
}

// lastSeen returns the units as they were last read.
func (t *trial) lastSeen() (all []systemd.Unit) {
	for _, w := range t.units {
		all = append(all, w.last.Unit)
	}
	return all
}

// rested returns the idle units as [peers] has them.
func (t *trial) rested() map[string]string {
	all := map[string]string{}
	for _, w := range t.units {
		if w.idle {
			all[w.unit] = w.run
		}
	}
	return all
}

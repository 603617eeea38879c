package swap

import (
	"github.com/machinemon/machinemon-update/internal/state"
)

// judgeable refuses a trial that could not be judged, whatever the release: the unit
// is up, and the gate did not find the program in it. A rollback would follow, at the
// price of two restarts, each time. A unit that is down is another matter: an update
// may be its cure.
func (sw *swapping) judgeable(before *state.Baseline) error {
	if before == nil || before.Unjudgeable == "" {
		return nil
	}
	hint := "systemctl status " + sw.journal.Unit + " " + unitOf("baseline", sw.name)
	if sw.journal.Main != "" {
		hint = state.MainHint(sw.name)
	}
	return state.Fail(state.ResultMisconfigured, "cannot judge %s: %s (hint: %s)", sw.name, before.Unjudgeable, hint)
}

// identify writes into the journal which file the program must run from now on. The
// gate's user, who compares it with what runs, may not be allowed to enter its
// directory.
func (s *Swapper) identify(j *state.Journal) {
	id, err := state.MainID(j.Main)
	if err != nil {
		s.logf("%s: %v", describe(j), err) // the gate may find out by itself
	}
	j.MainID = id
}

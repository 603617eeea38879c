package swap

import (
	"strings"

	"github.com/machinemon/machinemon-update/internal/state"
)

// judgeable refuses a trial that could not be judged for any release: the unit is up, but
// the gate did not find the program in it. Each trial would end in a rollback, at the
// price of two restarts, as would each if other programs answer its probes. A unit that is down is not refused, because an update may be its
// cure.
func (sw *swapping) judgeable(before *state.Baseline) error {
	if before == nil || before.Unjudgeable == "" {
		return nil
	}
	if strings.Contains(before.Unjudgeable, "(hint: ") {
		return state.Fail(state.ResultMisconfigured, "cannot judge %s: %s", sw.name, before.Unjudgeable)
	}
	hint := "systemctl status " + strings.Join(append(sw.journal.Units(), unitOf("baseline", sw.name)), " ")
	if sw.journal.Main != "" {
		hint = state.MainHint(sw.name)
	}
	return state.Fail(state.ResultMisconfigured, "cannot judge %s: %s (hint: %s)", sw.name, before.Unjudgeable, hint)
}

// identify writes into the journal which file the program must run from now on. The
// gate's user compares it with what runs, but may not be allowed to enter its directory.
func (s *Swapper) identify(j *state.Journal) {
	id, err := state.MainID(j.Main)
	s.logError(j, err) // the gate may be able to find out itself
	j.MainID = id
}

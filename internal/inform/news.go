package inform

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// ends are the results after which the operator is told of a failure.
var ends = map[state.Result]string{
	state.ResultFailed: target.EventFailed, state.ResultRefused: target.EventFailed, state.ResultMisconfigured: target.EventFailed,
	state.ResultRolledBack: target.EventRolledBack, state.ResultInterrupted: target.EventRolledBack,
	state.ResultRollbackFailed: target.EventRollbackFailed,
}

// recovered reports whether an attempt with this result ends a failure. That a release is
// available says only that one before the download has ended.
func recovered(bad, now state.Result) bool {
	switch now {
	case state.ResultCommitted, state.ResultUnproven, state.ResultAdopted, state.ResultCurrent, state.ResultSettled:
		return true
	case state.ResultAvailable:
		return ends[bad] == target.EventFailed
	}
	return false
}

// news returns what has happened since told, and what is told then. A nil told means that
// nothing was told yet: only what the last attempt came to is news.
func news(f facts, told *state.Told, now time.Time) ([]state.Notice, state.Told) {
	var since []state.Attempt
	t := state.Told{}
	if told != nil {
		t = *told
		since = after(f.attempts, t)
	} else {
		since = f.attempts[max(0, len(f.attempts)-1):]
	}
	var all []state.Notice
	if f.unusable != nil {
		since = append(slices.Clone(since), state.Attempt{Time: now, Result: state.ResultMisconfigured, Reason: f.unusable.Error()})
	}
	for _, a := range since {
		if a.Result == state.ResultHandedOn || a.Result == state.ResultOnTrial {
			continue // it has not ended, or was killed
		}
		event := ends[a.Result]
		switch {
		// A drill fails on purpose. Once its rollback has failed, its end is news.
		case a.Exercise() && t.Attempt != a.ID:
			event = ""
		// The same failure again, as with each scheduled run, is no news. A trial is.
		case event == target.EventFailed && t.Bad == a.Result && t.BadVersion == a.Version:
			event = ""
		case event != "":
			t.Bad, t.BadVersion = a.Result, a.Version
		case t.Bad != "" && recovered(t.Bad, a.Result):
			event = target.EventRecovered
			t.Bad, t.BadVersion = "", ""
		}
		if a.ID != "" {
			t.Attempt, t.Result, t.Time = a.ID, a.Result, a.Time
		}
		if event != "" {
			all = append(all, notice(f.name, event, a))
		}
	}
	signature, warning := policy.Expiring(f.signed(), now)
	key := ""
	if signature != nil {
		key = fmt.Sprintf("%s %s", signature.Role, signature.Expires.UTC().Format(time.RFC3339))
	}
	if key != "" && key != t.Expiring {
		all = append(all, notice(f.name, target.EventExpiring, state.Attempt{Time: now, Reason: warning}))
	}
	t.Expiring = key
	return all, t
}

// after returns the attempts that ended after what was told last. That one may have ended
// again since, as one whose rollback failed does.
func after(attempts []state.Attempt, told state.Told) []state.Attempt {
	for i, a := range attempts {
		if a.ID == told.Attempt {
			if a.Result == told.Result {
				i++
			}
			return attempts[i:]
		}
	}
	// Its record has made room for a later one with the same end.
	return slices.DeleteFunc(slices.Clone(attempts), func(a state.Attempt) bool { return !a.Time.After(told.Time) })
}

// notice returns a notice of what an attempt came to.
func notice(name, event string, a state.Attempt) state.Notice {
	host, _ := os.Hostname() // without a name, the message has one thing less
	from, to := a.Versions()
	return state.Notice{Event: event, Target: name, Host: host, Time: a.Time.UTC(), Attempt: a.ID, From: from, Version: to,
		Result: a.Result, Reason: a.Reason, After: a.Aftermath(), Said: a.Said}
}

// tell puts what has happened into the spool of the sender, and wakes that if anything
// waits there.
func (i *Informer) tell(f facts) error {
	told, err := i.Tree.Told(f.name)
	if errors.Is(err, state.ErrDamaged) {
		told, err = nil, nil
	}
	if err != nil {
		return err
	}
	all, now := news(f, told, time.Now())
	people := i.Targets.NotifyOf(f.name)
	for _, n := range all {
		for _, way := range people.Ways() {
			if people.Tells(n.Event) {
				if err := i.Tree.AddNotice(way, n); err != nil {
					return err
				}
			}
		}
	}
	now.Format = state.Format
	if told == nil || *told != now {
		if err := i.Tree.SetTold(f.name, now); err != nil {
			return err
		}
	}
	for _, way := range []string{target.WayWebhook, target.WayMail, target.WayCommand} {
		waiting, err := i.Tree.WaitingNotices(f.name, way)
		if err != nil || len(waiting) > 0 {
			return cmp.Or(err, i.Wake(f.name))
		}
	}
	return nil
}

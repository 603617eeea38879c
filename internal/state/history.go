package state

import (
	"errors"
	"slices"
	"strings"
)

// ends are the results that an attempt can have with each role. The records of
// the first two are not believed when they tell of more.
var ends = map[Role][]Result{
	Fetch:  {Current, Available, Failed, Misconfigured, Refused, NotDownloaded, NotAttempted},
	Verify: {Failed, Misconfigured, Refused},
	Swap: {Adopted, Committed, Unproven, Failed, Misconfigured, RolledBack, Interrupted,
		RollbackFailed, Refused, NotAttempted},
}

// History merges what the three roles recorded, in the order in which the
// attempts began: of each the record of the role that came furthest.
func (t Tree) History(target string) ([]Attempt, error) {
	merged := map[string]Attempt{}
	var failed error
	for _, r := range []Role{Fetch, Verify, Swap} {
		s, err := t.Status(r, target)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		for _, a := range s.Attempts[max(0, len(s.Attempts)-keep):] {
			if !ValidAttempt(a.ID) {
				continue
			}
			if !slices.Contains(ends[r], a.Result) {
				a.Result = HandedOn // it cannot end there so
			}
			a.Reason = Line(a.Reason)
			merged[a.ID] = a
		}
	}
	all := make([]Attempt, 0, len(merged))
	for _, a := range merged {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b Attempt) int { return strings.Compare(a.ID, b.ID) })
	return all, failed
}

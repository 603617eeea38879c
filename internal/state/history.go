package state

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// History merges the records of the three roles, in the order in which the attempts began.
// For each attempt it returns the record of the last role, with the fetcher's NoDelta.
func (t Tree) History(target string) ([]Attempt, error) {
	merged := map[AttemptID]Attempt{}
	var lists [][]AttemptID
	open, failed := t.onTrial(target)
	for _, r := range []Role{RoleFetch, RoleVerify, RoleSwap} {
		s, err := t.Status(r, target)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		var ids []AttemptID
		for _, a := range s.Attempts[max(0, len(s.Attempts)-keep):] {
			if !a.ID.Valid() || slices.Contains(ids, a.ID) {
				continue
			}
			if !a.Result.endsAt(r) {
				a.Result = ResultHandedOn // no attempt can end with that result at that role
			}
			if r != RoleSwap { // only the swapper undoes trials
				a.Healthy, a.Unhealthy, a.Said, a.Rejected = false, "", nil, ""
			}
			a.Unhealthy = Line(a.Unhealthy)
			a.Reason, a.Warning, a.NoDelta = Line(a.Reason), Line(cmp.Or(a.Warning, merged[a.ID].Warning)), Line(cmp.Or(a.NoDelta, merged[a.ID].NoDelta))
			merged[a.ID] = a
			ids = append(ids, a.ID)
		}
		// The swapper has no record of an open trial before its verdict.
		if r == RoleSwap && open != nil && !slices.Contains(ids, open.ID) {
			open.NoDelta = merged[open.ID].NoDelta
			merged[open.ID] = *open
			ids = append(ids, open.ID)
		}
		lists = append(lists, ids)
	}
	all := make([]Attempt, 0, len(merged))
	for _, id := range inOrder(lists) {
		all = append(all, merged[id])
	}
	return all, failed
}

// HistoryMark changes with the files that [Tree.History] reads: each write replaces a file. It is
// empty if one cannot be looked at.
func (t Tree) HistoryMark(target string) string {
	var mark strings.Builder
	for _, path := range []string{t.status(RoleFetch, target), t.status(RoleVerify, target), t.status(RoleSwap, target), t.private(target), t.journal(target)} {
		var st unix.Stat_t
		err := unix.Lstat(path, &st)
		if err != nil && err != unix.ENOENT {
			return ""
		}
		fmt.Fprintln(&mark, st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim)
	}
	return mark.String()
}

// onTrial returns the attempt whose journal is open, or nil.
func (t Tree) onTrial(target string) (*Attempt, error) {
	j, err := t.Journal(target)
	if err != nil || j == nil {
		return nil, err
	}
	return &Attempt{ID: j.Attempt, Time: j.Started, Origin: j.Origin, From: j.From, Version: j.Version,
		Sequence: j.Sequence, Manifest: j.Manifest, Stage: string(RoleSwap), Result: ResultOnTrial}, nil
}

// inOrder merges the roles' lists of IDs. Each list is in the order of events, which takes
// precedence over the times in the IDs: the clock may have been set back since. Where the
// lists leave the order open, or contradict each other, the smaller ID comes first.
func inOrder(lists [][]AttemptID) []AttemptID {
	var all []AttemptID
	for {
		next, free := AttemptID(""), false
		for _, l := range lists {
			if len(l) == 0 {
				continue
			}
			// An ID is free if no list has it behind another ID.
			is := !slices.ContainsFunc(lists, func(other []AttemptID) bool { return slices.Index(other, l[0]) > 0 })
			if next == "" || is && !free || is == free && l[0] < next {
				next, free = l[0], is
			}
		}
		if next == "" {
			return all
		}
		all = append(all, next)
		for i, l := range lists {
			lists[i] = slices.DeleteFunc(l, func(id AttemptID) bool { return id == next })
		}
	}
}

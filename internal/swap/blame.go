package swap

import (
	"cmp"
	"slices"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
)

// judge decides whether the release is to blame, and records the attempt in st. The
// release is not to blame if the gate could not tell, or if the old program is no better.
// A trial that the gate did not judge counts as an interruption.
func (s *Swapper) judge(j *state.Journal, after *state.Baseline, changed bool, st *state.Status) {
	before, err := s.Tree.Baseline(j.Target, j.Attempt)
	s.logError(j, err)
	report := state.Report{}
	if r, err := s.Tree.Report(j.Target, j.Attempt); err == nil && r != nil {
		report = *r
	}
	result, reason := state.ResultRolledBack, j.Reason
	finding, blameless := j.Finding, false
	if after != nil {
		if ill := illness(before, after); ill != "" {
			reason += "; "
			if finding != "" {
				finding, reason = state.FindingUnsure, reason+"not rejected: "
			}
			reason += "the old version is not healthy either: " + ill
		} else if p := cured(report, before, after); finding == state.FindingUnsure && p != "" {
			reason += "; the old version passes " + p
			finding = state.FindingBad
		} else if p := unchanged(report, before, after); finding == state.FindingBad && p != "" {
			reason += "; not rejected: " + p + " failed before the update, too, and fails with the old version (hint: sudo machinemon-update probe " + j.Target + ")"
			finding = state.FindingUnsure
		}
	}
	r := rejectionOf(j, reason)
	switch {
	case finding == state.FindingBad:
		st.Reject(r)
	case finding == state.FindingUnsure:
		blameless = true
	case j.Failure != "" && j.Phase == state.PhasePrepared && !changed:
		result = state.ResultFailed // no file was changed, as in a failure before the journal was written
	default:
		if j.Finding == "" {
			result = state.ResultInterrupted
		}
		r.Interruptions = 1 // it is tried again, up to [state.MaxInterruptions]
		st.Reject(r)
	}
	a := s.ended(j, "rollback", result, reason)
	if after != nil { // the old program was watched; here each failure of a probe counts
		a.Unhealthy = illness(nil, after)
		runs := len(j.Idle) < len(j.Units()) // else nothing was started
		a.Healthy = a.Unhealthy == "" && !after.Unprobed && runs
	}
	a.Blameless = blameless
	if st.Rejects(r.Fingerprint, r.Archive, r.Sequence) != nil {
		a.Rejected = state.Called(j.Version)
	}
	remark := a.Aftermath()
	if remark != "" {
		remark = " (" + remark + ")"
	}
	s.Log.Event(log.Event(result), "%s: %s: %s%s", describe(j), result, reason, remark)
	st.Record(a)
}

func rejectionOf(j *state.Journal, reason string) state.Rejection {
	files := j.NewFiles()
	return state.Rejection{Version: j.Version, Sequence: j.Sequence, Fingerprint: state.Fingerprint(files),
		Private: slices.ContainsFunc(files, func(f state.File) bool { return f.Private }),
		Archive: j.Archive, Time: time.Now().UTC(), Reason: reason}
}

// illness returns what is wrong with the old program, or "". A probe that failed before
// the swap, too, does not count; none does if before is nil.
func illness(before, after *state.Baseline) string {
	if !after.Standing {
		return cmp.Or(after.Detail, "its unit is not as it must be")
	}
	for _, p := range after.Probes {
		if !p.Passed && !p.Unknown && !failed(before, p.Probe) {
			return p.Probe + ": " + p.Detail
		}
	}
	return ""
}

// cured returns a probe that failed before the swap and during the trial, and passes now:
// the release is to blame for it after all. It returns "" if there is none.
func cured(report state.Report, before, after *state.Baseline) string {
	for _, p := range report.Probes {
		if !p.Passed && failed(before, p.Probe) && passed(after, p.Probe) {
			return p.Probe
		}
	}
	return ""
}

// passed reports whether the baseline has a pass of the probe.
func passed(b *state.Baseline, probe string) bool {
	r := find(b, probe)
	return r != nil && r.Passed
}

// failed reports whether the baseline has a failure of the probe.
func failed(b *state.Baseline, probe string) bool {
	r := find(b, probe)
	return r != nil && !r.Passed
}

// find returns the result of a probe that has evidence; nil if the baseline has none.
func find(b *state.Baseline, probe string) *state.ProbeResult {
	if b == nil {
		return nil
	}
	i := slices.IndexFunc(b.Probes, func(r state.ProbeResult) bool { return r.Probe == probe && !r.Unknown })
	if i < 0 {
		return nil
	}
	return &b.Probes[i]
}

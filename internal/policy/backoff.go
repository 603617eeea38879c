package policy

import (
	"hash/fnv"
	"slices"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// longestBackoff is the longest time for which a failing release is left alone.
const longestBackoff = 24 * time.Hour

// backsOff refuses an unattended attempt for a while after a failure of the source or, if
// there was none, of the release.
func backsOff(k Known) (Decision, bool) {
	until := k.backsOffUntil("")
	if k.Release != nil && !k.Now.Before(until) {
		until = k.backsOffUntil(k.Release.Manifest)
	}
	if !k.Now.Before(until) {
		return Decision{}, false
	}
	return Decision{Reason: "it failed before: backing off until " + until.In(k.Now.Location()).Format("2006-01-02 15:04 MST")}, true
}

func (k Known) backsOffUntil(manifest string) time.Time {
	var counted []state.Attempt
	for _, a := range k.History {
		if k.Order.Booted && a.Result == state.ResultNotDownloaded && a.RetryAfter.IsZero() {
			continue // the network may be up by now
		}
		if k.mended(a) {
			continue
		}
		// An attempt by directive counts every failure as one of this manifest, because
		// the server may write a new manifest for each directive.
		if k.Order.Origin == state.OriginDirective && a.Failed() {
			a.Manifest = manifest
		}
		counted = append(counted, a)
	}
	return Backoff(counted, manifest, k.Rules.CheckEvery, k.Now)
}

// mended reports whether the target file was changed after the begin of an attempt that failed
// before its trial, so that the next one may succeed. It still waits if the source asked for
// that.
func (k Known) mended(a state.Attempt) bool {
	read, known := a.ID.Began()
	if !known {
		read = a.Time
	}
	return a.Failed() && !a.Blameless && a.RetryAfter.IsZero() && read.Before(k.Rules.Changed) && !k.Rules.Changed.After(k.Now)
}

// Backoff returns the time before which scheduled attempts leave a manifest alone because
// attempts at it failed, or zero. manifest is the sha256 of its bytes; "" stands for
// manifests that could not be fetched at all. every is the target's
// auto_update_check_every_seconds: the first retry waits that long, each further one
// twice as long as the one before, but a day at most, and up to a tenth more, so that
// machines that failed together do not retry together. Failures within one interval,
// after a boot or because an operator tries again at once, count as one. A failure later
// than now shows that the clock was wrong then or is wrong now; it is not waited for,
// because that might take decades. A source that asks for a pause is left alone for as
// long as it says, but not for more than a day.
func Backoff(history []state.Attempt, manifest string, every time.Duration, now time.Time) time.Time {
	n := 0
	var last, counted state.Attempt
	for _, a := range slices.Backward(history) {
		if a.Result == state.ResultNotAttempted || a.Result == state.ResultHandedOn || a.Result == state.ResultOnTrial || a.Stage == "begin" || a.Drill {
			continue // says nothing about the source
		}
		if a.Result == state.ResultAvailable && a.Manifest == manifest {
			continue // it was only checked
		}
		if a.Failed() && a.Manifest == "" && manifest != "" {
			continue // the manifest could not be fetched for a while
		}
		if a.Expired && manifest != "" {
			continue // expired metadata say nothing about what the release did
		}
		if a.Manifest != manifest || !a.Failed() {
			break
		}
		if n == 0 {
			last = a
		} else if counted.Time.Sub(a.Time) < every {
			continue
		}
		counted = a
		n++
	}
	if n == 0 || last.Time.After(now) {
		return time.Time{}
	}
	wait := every
	for range n - 1 {
		wait = min(2*wait, max(every, longestBackoff))
	}
	if n > 1 {
		h := fnv.New32a()
		h.Write([]byte(last.ID))
		wait += wait / 10 * time.Duration(h.Sum32()%100) / 100
	}
	asked := last.RetryAfter.Sub(last.Time) // less than any wait if the source asked for none
	return last.Time.Add(max(wait, min(asked, longestBackoff)))
}

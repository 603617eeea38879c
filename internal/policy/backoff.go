package policy

import (
	"hash/fnv"
	"slices"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// longestBackoff bounds how long a failing release is left alone.
const longestBackoff = 24 * time.Hour

// backsOff keeps an unattended attempt from what failed a while ago: first the source,
// then the release.
func backsOff(k Known) (Decision, bool) {
	until := k.backsOffUntil("")
	if k.Release != nil && !k.Now.Before(until) {
		until = k.backsOffUntil(k.Release.Manifest)
	}
	return Decision{Reason: "it failed before: backing off until " + until.In(k.Now.Location()).Format("2006-01-02 15:04 MST")}, k.Now.Before(until)
}

func (k Known) backsOffUntil(manifest string) time.Time {
	var counted []state.Attempt
	for _, a := range k.History {
		if k.Order.Booted && a.Result == state.ResultNotDownloaded && a.RetryAfter.IsZero() {
			continue // the network may have come meanwhile
		}
		// A server that sends directives may also write a new manifest for each: a
		// directive does not try again under another name what failed a while ago.
		if k.Order.Origin == state.OriginDirective && a.Failed() {
			a.Manifest = manifest
		}
		counted = append(counted, a)
	}
	return Backoff(counted, manifest, k.Rules.CheckEvery, k.Now)
}

// Backoff is the time before which scheduled attempts leave a manifest alone,
// after an attempt at it failed; zero when none did. every is the
// target's auto_update_check_every_seconds: the first retry waits so long, each
// further one twice as long as the one before, and up to a tenth more, so that
// machines that failed together do not come back together. Failures within one
// interval, after a boot or at an impatient operator's hands, count as one. A
// failure later than now tells that the clock was wrong then or is wrong now, and
// nothing about how long ago it was: it does not wait, or it might for decades.
// manifest is the sha256 of its bytes; "" stands for manifests that could not
// be had at all. A source that takes no more requests is left alone as long as
// it says, but no longer than a day.
func Backoff(history []state.Attempt, manifest string, every time.Duration, now time.Time) time.Time {
	n := 0
	var last, counted state.Attempt
	for _, a := range slices.Backward(history) {
		if a.Result == state.ResultNotAttempted || a.Result == state.ResultHandedOn || a.Result == state.ResultOnTrial || a.Stage == "begin" {
			continue // says nothing of the source
		}
		if a.Result == state.ResultAvailable && a.Manifest == manifest {
			continue // it was only looked at
		}
		if a.Failed() && a.Manifest == "" && manifest != "" {
			continue // it could not be had for a while
		}
		if a.Expired && manifest != "" {
			continue // and forgives no release what it did before
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
	until, retry := last.Time.Add(wait), last.RetryAfter
	if latest := last.Time.Add(longestBackoff); retry.After(latest) {
		retry = latest
	}
	if retry.After(until) {
		until = retry
	}
	return until
}

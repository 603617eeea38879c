package state

import (
	"hash/fnv"
	"slices"
	"time"
)

// longestBackoff bounds how long a failing release is left alone.
const longestBackoff = 24 * time.Hour

// Failed reports whether the attempt ended in a way that backs off: before a trial,
// or in one that was rolled back and nothing was rejected. Expired signatures do not:
// the next scheduled attempt must find the new ones.
func (a Attempt) Failed() bool {
	return a.Result.is(backsOff) && !a.Expired || a.Blameless
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
func Backoff(history []Attempt, manifest string, every time.Duration, now time.Time) time.Time {
	n := 0
	var last, counted Attempt
	for _, a := range slices.Backward(history) {
		if a.Result == ResultNotAttempted || a.Result == ResultHandedOn || a.Result == ResultOnTrial || a.Stage == "begin" {
			continue // says nothing of the source
		}
		if a.Result == ResultAvailable && a.Manifest == manifest {
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

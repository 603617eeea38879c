package state

import (
	"fmt"
	"slices"
	"time"
)

// Rejection remembers a release whose trial failed here.
type Rejection struct {
	Version     string `json:"version"`
	Sequence    int64  `json:"sequence,omitempty"`
	Fingerprint string `json:"digest"` // [Fingerprint] of its installed files
	// Private says that not all users may read one of these files, and thus the digest.
	Private bool      `json:"private,omitempty"`
	Archive string    `json:"archive"` // sha256 of the release's archive
	Time    time.Time `json:"time"`
	Reason  string    `json:"reason"`
	// Interruptions counts the trials that were cut short. They reject the release only
	// when the count reaches [MaxInterruptions].
	Interruptions int `json:"interruptions,omitempty"`
}

// RejectedOn begins the reason of [Rejection.Refusal].
const RejectedOn = "it was rejected on "

// Refusal says why a rejected release is not installed.
func (r *Rejection) Refusal() string {
	return RejectedOn + r.Time.UTC().Format("2006-01-02 15:04 UTC") + ": " + r.Reason
}

// UnskipHint says how the operator undoes the rejections of a target.
func UnskipHint(target string) string {
	return "sudo machinemon-update unskip " + target + " tries it again"
}

// MaxInterruptions is the number of interrupted trials after which a release is rejected.
const MaxInterruptions = 3

func (r *Rejection) matches(digest, archive string) bool {
	return digest != "" && r.Fingerprint == digest || archive != "" && r.Archive == archive
}

// Rejects returns the rejection of a release, or nil. A rejection applies to the same
// installed bytes or the same archive, with the same or a lower sequence. Interruptions
// reject from [MaxInterruptions] on.
func (s *Status) Rejects(digest, archive string, sequence int64) *Rejection {
	for i := range s.Rejected {
		r := &s.Rejected[i]
		interrupted := r.Interruptions > 0 && r.Interruptions < MaxInterruptions
		if r.matches(digest, archive) && sequence <= r.Sequence && !interrupted {
			return r
		}
	}
	return nil
}

// Reject remembers a failed trial. For an interrupted trial, r.Interruptions is 1; Reject
// adds earlier interruptions of the same release to it.
func (s *Status) Reject(r Rejection) {
	r.Reason = Line(r.Reason)
	var old Rejection // the newest match; several archives may have had the same bytes
	for _, b := range s.Rejected {
		if b.matches(r.Fingerprint, r.Archive) {
			old = b
		}
	}
	if r.Interruptions > 0 {
		if old.Fingerprint != "" && old.Sequence == r.Sequence {
			if old.Interruptions == 0 { // it is rejected for good already
				return
			}
			r.Interruptions += old.Interruptions
		}
		if r.Interruptions >= MaxInterruptions {
			r.Reason = Line(fmt.Sprintf("its trial was cut short %d times; the last time: %s", r.Interruptions, r.Reason))
		}
	}
	s.Rejected = slices.DeleteFunc(s.Rejected, func(b Rejection) bool { return b == old })
	s.Rejected = append(s.Rejected, r)
}

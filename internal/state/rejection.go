package state

import (
	"slices"
	"time"
)

// Rejection remembers a release whose trial failed here.
type Rejection struct {
	Version  string    `json:"version"`
	Sequence int64     `json:"sequence,omitempty"`
	Digest   string    `json:"digest"`  // [Digest] of its installed files
	Archive  string    `json:"archive"` // sha256 of the archive it came in
	Time     time.Time `json:"time"`
	Reason   string    `json:"reason"`
	// Interruptions counts the trials that were cut short; a release is
	// rejected for them only when the count reaches [MaxInterruptions].
	Interruptions int `json:"interruptions,omitempty"`
}

// Refusal says why a rejected release is not installed.
func (r *Rejection) Refusal() string {
	return "it was rejected on " + r.Time.UTC().Format("2006-01-02 15:04 UTC") + ": " + r.Reason
}

// MaxInterruptions is how often a trial that was cut short is tried again.
const MaxInterruptions = 3

// Status is a role's status.json. Offer is the fetcher's; Installed, Previous,
// Rejected, Held and Source the swapper's.
type Status struct {
	Format    int         `json:"format"`
	Attempts  []Attempt   `json:"attempts,omitempty"` // oldest first
	Offer     *Offer      `json:"offer,omitempty"`
	Installed *Release    `json:"installed,omitempty"`
	Previous  *Release    `json:"previous,omitempty"`
	Rejected  []Rejection `json:"rejected,omitempty"`
	Held      *Hold       `json:"held,omitempty"`
	Source    *Source     `json:"source,omitempty"`
}

// Rejects finds the rejection of a release: the same installed bytes, or the
// same archive, at no higher a sequence. Interruptions count from the third.
func (s *Status) Rejects(digest, archive string, sequence int64) *Rejection {
	r := s.rejection(digest, archive)
	if r == nil || sequence > r.Sequence {
		return nil
	}
	if r.Interruptions > 0 && r.Interruptions < MaxInterruptions {
		return nil
	}
	return r
}

// Reject remembers a failed trial. An interruption is counted on top of
// earlier ones of the same release.
func (s *Status) Reject(r Rejection, interrupted bool) {
	r.Reason = Line(r.Reason)
	var old Rejection
	if p := s.rejection(r.Digest, r.Archive); p != nil {
		old = *p
	}
	if interrupted {
		r.Interruptions = 1
		if old.Digest != "" && old.Sequence == r.Sequence {
			if old.Interruptions == 0 { // rejected for good already
				return
			}
			r.Interruptions += old.Interruptions
		}
	}
	s.Rejected = slices.DeleteFunc(s.Rejected, func(b Rejection) bool { return b == old })
	s.Rejected = append(s.Rejected, r)
}

func (s *Status) rejection(digest, archive string) *Rejection {
	for i := range s.Rejected {
		r := &s.Rejected[i]
		if digest != "" && r.Digest == digest || archive != "" && r.Archive == archive {
			return r
		}
	}
	return nil
}

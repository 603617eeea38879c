package state

import "github.com/machinemon/machinemon-update/internal/durable"

// Looked is what was seen of files that were read on this boot, by their paths. A file that
// still has the stamp is not read again to know its digest.
type Looked map[string]LookedAt

// LookedAt is what was seen of one file.
type LookedAt struct {
	SHA256 string `json:"sha256"`
	Stamp  Stamp  `json:"stamp"`
}

// worthALook is the least size in bytes of a file that [Looked] remembers. A smaller one is
// read faster than its stamp is written.
const worthALook = 64 << 10

// Looked returns what is known of the files that the trial has put in their places, for the
// attempt after it.
func (j *Journal) Looked() Looked {
	l := Looked{}
	for _, c := range j.Changes {
		if c.Placed != nil && !c.Private && c.Placed.Size >= worthALook {
			l[c.To] = LookedAt{c.New, *c.Placed}
		}
	}
	return l
}

// Same is [File.Same], except that it does not read a file that still has the stamp that it had
// when it was read before. It remembers the file that it reads, unless l is nil. All users may
// read what it remembers, so it remembers no private file.
func (l Looked) Same(f File) bool {
	if f.Tree != nil || f.Private || durable.OfUser(f.To) {
		return f.Same()
	}
	if at, ok := l[f.To]; ok && at.SHA256 == f.SHA256 && at.Stamp.Still(f.To) {
		return true
	}
	stamp := StampOf(f.To)
	if !f.Same() {
		return false
	}
	if l != nil && stamp.Still(f.To) && stamp.Size >= worthALook {
		l[f.To] = LookedAt{f.SHA256, *stamp}
	}
	return true
}

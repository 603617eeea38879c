package state

import "path/filepath"

// handoverName is a file outside the spool, because the verifier can write in the spool.
const handoverName = "handover.json"

// Handover says which manifest the fetcher handed on in an attempt. The fetcher writes it
// where the verifier cannot, so that root can compare what comes from the verifier with it.
type Handover struct {
	Format   int       `json:"format"`
	Attempt  AttemptID `json:"attempt"`
	Manifest string    `json:"manifest"` // sha256 of its bytes
}

func (t Tree) handover(target string) string {
	return filepath.Join(t.Dir(RoleFetch, target), handoverName)
}

// SetHandover writes what the fetcher is about to hand on.
func (t Tree) SetHandover(target string, h Handover) error {
	h.Format = Format
	return writeJSON(t.handover(target), h)
}

// Handover returns what the fetcher handed on last, or nil if it does not say.
func (t Tree) Handover(target string) (*Handover, error) {
	return readIfThere[Handover](t.handover(target))
}

package source

import (
	"slices"

	"github.com/machinemon/machinemon-update/internal/state"
)

// complete reports whether the whole file is on the server. GitHub lists a file from the
// beginning of its upload, with the state "starter" or "open".
func (a asset) complete() bool { return a.State == "" || a.State == "uploaded" }

// notThere returns the error that a file is not at the address that a key of the target file
// names: publishers upload there after they made the release.
func (g *github) notThere(address, key string) error {
	return state.Fail(state.ResultNotAttempted, "%s is not complete yet: there is no %.300s (hint: if it is never there, correct source.%s)", g.name(), address, key)
}

// notYet returns an error if a file of the release that is needed is still being uploaded,
// or if the release has no files: publishers add them after they made it. The attempt has
// then not failed, and the next one looks again.
func (g *github) notYet(needed func(name string) bool) error {
	if g.release.Assets == nil {
		return nil
	}
	i := slices.IndexFunc(g.release.Assets, func(a asset) bool { return !a.complete() && needed(a.Name) })
	switch {
	case i >= 0:
		return state.Fail(state.ResultNotAttempted, "%s is not complete yet: the upload of %.100s is not finished", g.name(), g.release.Assets[i].Name)
	case len(g.release.Assets) == 0:
		return state.Fail(state.ResultNotAttempted, "%s is not complete yet: it has no files", g.name())
	}
	return nil
}

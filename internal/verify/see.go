package verify

import (
	"slices"

	"github.com/machinemon/machinemon-update/internal/archive"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// see keeps what the archive has of the entries that the target leaves out.
func (v *verifier) see(t *target.Target, excluded []string, files []archive.File) {
	of := t.InsideOf(v.platform)
	if of == "" {
		return
	}
	v.inside = &state.Inside{Of: of, LeftOut: map[string]string{}}
	out := t.LeftOut(excluded, v.key, v.manifest.Version)
	for _, f := range files {
		if slices.Contains(out, f.Name) {
			v.inside.LeftOut[f.Name] = f.SHA256
		}
	}
}

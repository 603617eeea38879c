package fetch

import (
	"maps"
	"path/filepath"
	"slices"

	"github.com/machinemon/machinemon-update/internal/dirtree"
	"github.com/machinemon/machinemon-update/internal/fetch/source"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// installs returns the [state.Fingerprint] of the files that a release would install, "" if
// its manifest does not list them, and the unit's own file, nil if it lists none.
func installs(t *target.Target, r *source.Release) (fingerprint string, unit *state.File) {
	var files []state.File
	complete := true
	for _, i := range t.Install {
		if i.Tree {
			file := state.File{To: i.To, SHA256: treeDigest(i, r)}
			complete = complete && (file.SHA256 != "" || i.Optional)
			if file.SHA256 != "" {
				files = append(files, file)
			}
			continue
		}
		c, listed := r.Platform.Contents[entry(i, r)]
		if !listed {
			complete = complete && i.Optional
			continue
		}
		file := state.File{To: i.To, SHA256: c.SHA256}
		files = append(files, file)
		if unit == nil && slices.Contains(t.Units(), filepath.Base(i.To)) {
			unit = &file
		}
	}
	if complete && len(files) > 0 {
		fingerprint = state.Fingerprint(files)
	}
	return fingerprint, unit
}

// treeDigest returns the digest of a directory that a release would install, "" if the
// manifest's contents do not list it.
func treeDigest(i target.Install, r *source.Release) string {
	names, err := i.Files(r.Key, r.Manifest.Version, slices.Collect(maps.Keys(r.Platform.Contents)))
	if err != nil || len(names) == 0 {
		return ""
	}
	sums := map[string]string{}
	for name, entry := range names {
		sums[name] = r.Platform.Contents[entry].SHA256
	}
	return dirtree.Sum(sums, i.Keep)
}

// maxEarlier bounds [state.Offer.Earlier]: publishers make deltas from a few releases.
const maxEarlier = 32

func earlier(p manifest.Platform) (sums []string) {
	for _, d := range slices.Concat(p.Deltas, p.Patches) {
		if len(sums) < maxEarlier && !slices.Contains(sums, d.FromSHA256) {
			sums = append(sums, d.FromSHA256)
		}
	}
	return sums
}

// entry returns the entry of the release's archive that is installed, as far as the
// manifest's contents say: "" if a glob does not match exactly one. The verifier reports
// that.
func entry(i target.Install, r *source.Release) string {
	name, err := i.Find(r.Key, r.Manifest.Version, slices.Collect(maps.Keys(r.Platform.Contents)))
	if err != nil {
		return ""
	}
	return name
}

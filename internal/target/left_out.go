package target

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// MaxLeftOut is how many excluded files are recorded: more than a release has updaters.
const MaxLeftOut = 32

// LeftOut returns the entries of a release that its list names, that the target file
// excludes, and that from_release does not run: sorted, and at most MaxLeftOut. excluded
// are those that AddListed has returned.
func (t *Target) LeftOut(excluded []string, platform, version string) []string {
	program := t.Hooks.Program(platform, version)
	out := slices.DeleteFunc(slices.Sorted(slices.Values(excluded)), func(entry string) bool { return entry == program })
	return out[:min(len(out), MaxLeftOut)]
}

// LeftOutOf is LeftOut for a release of which only the manifest's contents are known, with
// the digests. list is that of the installed release, "" if it is not known. If the
// release has another, all entries count that the target file would exclude, unless it
// installs them: the list may name them.
func (t *Target) LeftOutOf(list string, contents map[string]manifest.Content, platform, version string) map[string]string {
	sums := map[string]string{}
	its, there := contents[t.Listing.Entry(platform, version)]
	if !there {
		return sums
	}
	var excluded []string
	if list != "" && manifest.Digest([]byte(list)) == its.SHA256 {
		with := *t
		excluded, _ = with.AddListed([]byte(list), platform, version) // root refuses a wrong list, and leaves nothing out
	} else {
		for entry := range contents {
			if t.mayLeaveOut(entry, platform, version) {
				excluded = append(excluded, entry)
			}
		}
	}
	for _, entry := range t.LeftOut(excluded, platform, version) {
		if c, there := contents[entry]; there {
			sums[entry] = c.SHA256
		}
	}
	return sums
}

// LeavesOut reports whether the target excludes files that a release lists.
func (t *Target) LeavesOut() bool {
	return t.Listing != nil && slices.ContainsFunc(t.Listing.Types, func(lt ListedType) bool { return len(lt.Exclude) > 0 })
}

// InsideOf returns the key under which the verifier remembers what an archive has of entries
// that are left out. It is another one if the target file excludes others, and "" if there
// is nothing to look for: the target excludes nothing, the manifest's contents tell it
// already, or the archive's digest is not known yet.
func (t *Target) InsideOf(p manifest.Platform) string {
	sum := cmp.Or(p.SHA512, p.SHA256)
	if !t.LeavesOut() || len(p.Contents) > 0 || strings.Trim(sum, "0") == "" {
		return ""
	}
	return manifest.Digest(fmt.Appendf(nil, "%s %q %+v %q", sum, t.Listing.File, t.Listing.Types, t.Hooks.FromRelease))
}

// mayLeaveOut reports whether the target file excludes an entry if the list names it.
func (t *Target) mayLeaveOut(entry, platform, version string) bool {
	return t.Listing.LeavesOut(entry, platform, version) && entry != t.Listing.Entry(platform, version) &&
		!slices.ContainsFunc(t.Install, func(i Install) bool { return i.Matches(platform, version, entry) })
}

package swap

import (
	"path"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

const (
	maxKeptList = 16 << 10 // bytes; the status contains the list, and is read often
	maxLeftOut  = 4 << 20  // bytes of all excluded files that are kept
)

// leaveOut records the digests of the files that the list names and the target file
// excludes, and keeps the files for the operator. It warns of those that are not known to
// be the installed release's: a program's own updater may contain a migration. excluded is
// as [target.Target.LeftOut] returns it.
func (sw *swapping) leaveOut(entry *state.Bundle, where map[string]string, p manifest.Platform, excluded []string) error {
	j := sw.journal
	sums, contents := map[string]string{}, map[string][]byte{}
	left := int64(maxLeftOut)
	for _, name := range excluded {
		want, described := p.Contents[name]
		if described {
			sums[name] = want.SHA256
		}
		from, ok := where[name]
		if !ok {
			continue // not in the archive, or the bundle has only deltas
		}
		content, err := entry.Read(from, left)
		if err != nil {
			sw.logf("%s: %s is not kept: %v", describe(j), name, err)
			continue
		}
		sum := manifest.Digest(content)
		if described && sum != want.SHA256 {
			return state.Fail(state.ResultRefused, "cannot use %s: it is not the one in the manifest's contents", name)
		}
		sums[name], contents[path.Base(name)] = sum, content
		left -= int64(len(content))
	}
	j.LeftOut = sums
	place := "the archive " + p.File
	if len(contents) > 0 {
		dir, err := sw.Tree.KeepLeftOut(sw.name, contents)
		if err != nil {
			return err
		}
		place = dir
	}
	if warning := sw.status.Installed.Unrun(j.Version, sums, place); warning != "" {
		sw.logf("%s: warning: %s", describe(j), warning)
		j.Warn(warning)
	}
	return nil
}

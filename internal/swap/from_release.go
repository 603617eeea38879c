package swap

import (
	"fmt"
	"os"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// stageProgram copies the release's program for from_release beside the installed files,
// because /run may be mounted noexec. name is its entry; "" for none. A release without it
// has nothing to migrate.
func (sw *swapping) stageProgram(entry *state.Bundle, where map[string]string, p manifest.Platform, name string) error {
	from, ok := where[name]
	want, described := p.Contents[name]
	if name == "" || !ok && !described {
		return nil
	}
	if !ok || len(p.Contents) > 0 && !described {
		return state.Fail(state.ResultRefused, "cannot run %s of the release: archive and manifest differ about it", name)
	}
	failed := func(err error) error { return fmt.Errorf("cannot copy %s: %w%s", name, brief(err), hint(err)) }
	dir, err := sw.stagingDir(sw.target.Install[0].To)
	if err != nil {
		return failed(err)
	}
	room, err := state.Free(dir)
	if err != nil {
		return failed(err)
	}
	at := sidePath(dir, sw.name, sw.journal.Attempt, 0, "run") // swept when the attempt ends
	sum, err := sw.stageEntry(entry, from, at, want, described, room, true)
	if err == nil {
		err = os.Chmod(at, 0o700)
	}
	if err != nil {
		return failed(err)
	}
	if described && sum != want.SHA256 {
		return state.Fail(state.ResultRefused, "cannot run %s of the release: its sha256 is %s, the manifest says %s", name, sum, want.SHA256)
	}
	sw.program = at
	return nil
}

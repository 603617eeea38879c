package swap

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// preflight starts the new program harmlessly before the swap: it runs version_command,
// with the staged files over the installed ones, as the user of the target's commands,
// without network, state or capabilities. It refuses the release only for what the sandbox
// cannot have caused: the program cannot be executed, dies by a signal, or says that it is
// another version.
func (sw *swapping) preflight(ctx context.Context) error {
	argv := sw.target.Health.VersionCommand
	if len(argv) == 0 {
		return nil
	}
	trial := systemd.Sandbox{
		Unit:   "machinemon-preflight@" + sw.name + ".service",
		Argv:   argv,
		User:   target.Account("command", sw.name),
		Output: filepath.Join(sw.Tree.Run, "attempt", sw.name+".preflight"),
	}
	for _, c := range sw.journal.Changes {
		// A file that is new to the machine has no place to be mounted over; if the
		// program needs it, the trial will show whether it works.
		if c.Kind == state.KindReplace && c.Old != "" {
			trial.Over = append(trial.Over, systemd.Bind{From: c.Staged, To: c.To})
		}
		if c.Kind == state.KindReplace && argv[0] == c.To {
			if c.Old == "" {
				return nil
			}
			if info, err := os.Stat(c.Staged); err != nil || info.Mode()&0o001 == 0 {
				return errors.Join(err, state.Fail(state.ResultMisconfigured, "cannot run version_command of %s: not everybody may execute %s (hint: chmod o+x, or leave version_command out)", sw.name, c.To))
			}
		}
	}
	r, err := sw.Systemd.Try(ctx, trial)
	if err != nil {
		return state.Fail(state.ResultFailed, "cannot run the pre-flight of %s: %w", sw.journal.Version, err)
	}
	switch {
	case r.Exec:
		return state.Fail(state.ResultRefused, "the new program cannot be executed: %s", r.Detail)
	case r.Signal:
		return state.Fail(state.ResultRefused, "the new program dies when started: %s", r.Detail)
	case sw.journal.Version == "": // the operator goes back to a release of unknown version
	case !manifest.Mentions(r.Output, sw.journal.Version):
		said := cmp.Or(manifest.FindVersion(r.Output, filepath.Base(argv[0])), "no version")
		return state.Fail(state.ResultRefused, "the new program says %s, the manifest %s", said, sw.journal.Version)
	}
	sw.logf("%s: pre-flight passed", describe(sw.journal))
	return nil
}

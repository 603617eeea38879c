package swap

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// newProgram is where the pre-flight has a new program that belongs into a user's directory.
const newProgram = "/run/machinemon-update/program"

// preflight starts the new program harmlessly before the swap: it runs version_command,
// with the staged files over the installed ones, as the user of the target's commands,
// without network, state or capabilities. It refuses the release only for what the sandbox
// cannot have caused: the program cannot be executed, dies by a signal, or does not say
// that it is this version.
func (sw *swapping) preflight(ctx context.Context) error {
	argv := sw.target.Health.VersionCommand
	if len(argv) == 0 {
		return sw.unproven()
	}
	trial := systemd.Sandbox{
		Unit:   "machinemon-preflight@" + sw.name + ".service",
		Argv:   argv,
		User:   target.Account("command", sw.name),
		Output: filepath.Join(sw.Tree.Run, "attempt", sw.name+".preflight"),
	}
	for _, c := range sw.journal.Changes {
		if c.OfUser() { // nothing is mounted where a user could redirect it
			trial.Over = append(trial.Over, systemd.Bind{From: c.Staged, To: newProgram})
			if argv[0] == c.To {
				trial.Argv = append([]string{newProgram}, argv[1:]...)
			}
			continue
		}
		// A file that is new to the machine has no place to be mounted over; if the
		// program needs it, the trial will show whether it works.
		if c.Kind == state.KindReplace && c.Old != "" {
			trial.Over = append(trial.Over, systemd.Bind{From: c.Staged, To: oldDir(c)})
		}
		below, inTree := strings.CutPrefix(argv[0], c.To+"/")
		if c.Kind == state.KindReplace && (argv[0] == c.To || c.Tree != nil && inTree) {
			if c.Old == "" {
				return sw.unproven()
			}
			program := c.Staged
			if inTree {
				program = filepath.Join(c.Staged, below)
			}
			if info, err := os.Stat(program); err != nil || info.Mode()&0o001 == 0 {
				return errors.Join(err, state.Fail(state.ResultMisconfigured, "cannot run version_command of %s: not everybody may execute %s (hint: chmod o+x, or leave version_command out)", sw.name, argv[0]))
			}
		}
	}
	r, err := sw.Systemd.Try(ctx, trial)
	if err != nil {
		return state.Fail(state.ResultFailed, "cannot run the pre-flight of %s: %w", sw.journal.Version, err)
	}
	if err := sw.version(r); err != nil {
		return err
	}
	sw.logf("%s: pre-flight passed", describe(sw.journal))
	return nil
}

// version refuses a program that does not say that it is the release. A program that says
// no version shows nothing about the release: the target file may have the wrong command.
func (sw *swapping) version(r systemd.SandboxResult) error {
	printed := sw.target.Health.Printed(r.Output)
	problem := printed.Problem(sw.journal.Version)
	switch {
	case r.Exec:
		return state.Fail(state.ResultRefused, "the new program cannot be executed: %s", r.Detail)
	case r.Signal:
		return state.Fail(state.ResultRefused, "the new program dies when started: %s", r.Detail)
	case sw.journal.Version == "": // the operator goes back to a release of unknown version
		return nil
	case r.Late:
		return state.Fail(state.ResultMisconfigured, "cannot tell the version of the new program: %s (hint: health.version_command must print the version and end)%s", r.Detail, firstLine(r.Output))
	case problem == "":
		return nil
	case printed.Told(sw.journal.Version) && !sw.runsNew():
		said, _, _ := strings.Cut(problem, " (hint: ")
		return state.Fail(state.ResultMisconfigured, "cannot tell the version of the new program: it %s (hint: health.version_command runs %s, which no [[install]] replaces)%s",
			said, sw.target.Health.VersionCommand[0], firstLine(r.Output))
	case printed.Told(sw.journal.Version):
		return state.Fail(state.ResultRefused, "the new program %s%s", problem, firstLine(r.Output))
	}
	if r.Detail != "" {
		r.Detail = " (" + r.Detail + ")"
	}
	return state.Fail(state.ResultMisconfigured, "cannot tell the version of the new program: it%s %s%s", r.Detail, problem, firstLine(r.Output))
}

// runsNew reports whether version_command names an installed file: the program, or one that
// a wrapper is to run.
func (sw *swapping) runsNew() bool {
	return slices.ContainsFunc(sw.target.Health.VersionCommand, func(word string) bool {
		return slices.ContainsFunc(sw.target.Install, func(i target.Install) bool { return strings.Contains(word, i.To) })
	})
}

// firstLine returns the first line of a program's output, for the end of an error, or "".
func firstLine(output string) string {
	for line := range strings.Lines(output) {
		if line = plainLine(line); line != "" {
			return state.SaidMark + line
		}
	}
	return ""
}

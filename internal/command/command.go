// Package command is the operator's command: it asks the chain to do its work, follows
// it, and shows what the roles have recorded.
//
// It changes no installed file. As root it writes requests and directives to
// /run/machinemon-update and starts units. Under the target's lock it writes the
// operator's decisions (holds, rejections, the enabled source) to the swapper's status.
// It writes auto_update_enabled to a drop-in of the target file, and a root that the
// operator trusts beside the target files. Other users can only look.
//
// The records of the fetcher and the verifier are not trusted: the command prints them
// without control characters.
package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/util"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/generate"
	"github.com/machinemon/machinemon-update/internal/nearest"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// exitDetached is a shell's status after SIGINT: the attempt goes on, and its end is not
// known.
const exitDetached = 130

// app is the state that the verbs share.
type app struct {
	tree     state.Tree
	targets  target.Dirs
	in       io.Reader
	out, err io.Writer
	json     bool
	terminal *os.File // err if that is a terminal, on which progress can be drawn; else nil
	root     bool
	reload   func() error // makes systemd read changed targets
	// inform makes monitoring learn of a decision about the targets; nil if systemd does not run.
	inform func(names []string) error
	send   func(name string) (said []string, err error) // starts the sender of a target's notices
	// machine connects to systemd; nil if systemd does not run.
	machine   func(context.Context) (machine, error)
	generated string // the directory of the generator's units
	fetcher   string // the path of the fetcher program
	verifier  string // and of the verifier
	machineID string // the path of the file with the machine's ID
	clock     func() (synchronised bool, err error)
	exit      int
}

const long = `machinemon-update updates daemons that are shipped as tarballs: verified,
atomic, watched, and rolled back when the new version is not healthy.

  machinemon-update                      show every target
  sudo machinemon-update apply agent     update the target "agent" now
  machinemon-update history agent        show how its updates went

A target is a file in /etc/machinemon-update/targets.d or
/usr/lib/machinemon-update/targets.d.

Exit status: 0 done or already current; 1 failed, nothing changed; 2 usage or
configuration error; 3 (check, --dry-run) an update is available; 4 rolled back;
5 failed, and so did the rollback; 6 refused: verification failed; 7 could not
download; 8 not attempted; 130 left with Ctrl-C. Of several targets the worst.

More: man machinemon-update`

// Main runs the command and returns its exit status.
func Main(args []string, version string) int {
	a := &app{
		send: sendNotices, tree: state.System, targets: target.DefaultDirs, in: os.Stdin, out: os.Stdout, err: os.Stderr, root: os.Geteuid() == 0,
		reload: reloadSystemd, fetcher: "/usr/lib/machinemon-update/fetcher", verifier: "/usr/lib/machinemon-update/verifier", machineID: rollout.MachineIDFile, terminal: cli.Terminal(),
		clock: clockSynchronised,
	}
	if util.IsRunningSystemd() {
		a.machine, a.generated, a.inform = connect, generate.Dir, informAll
	}
	return a.main(args, version)
}

func (a *app) main(args []string, version string) int {
	root := &cobra.Command{
		Use: "machinemon-update", Short: "Update daemons that are shipped as tarballs", Long: long, Version: version,
		Args: cli.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.status(nil) },
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetArgs(args)
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	add := func(use, short, more string, args cobra.PositionalArgs, complete cobra.CompletionFunc, run func([]string) error) *cobra.Command {
		c := &cobra.Command{Use: use, Short: short, Long: short + "." + more, Args: args, ValidArgsFunction: complete,
			RunE: func(_ *cobra.Command, args []string) error { return run(args) }}
		root.AddCommand(c)
		return c
	}
	addForRoot := func(use, short, more string, args cobra.PositionalArgs, complete cobra.CompletionFunc, run func([]string) error) *cobra.Command {
		c := add(use, short, more, args, complete, run)
		c.PreRunE = a.needRoot
		return c
	}
	oneOnly := a.completeFirst(nil, cobra.ShellCompDirectiveNoFileComp)
	thenFile := a.completeFirst(nil, cobra.ShellCompDirectiveDefault)
	thenDecision := a.completeFirst([]string{"keep", "back"}, cobra.ShellCompDirectiveNoFileComp)
	var forCheck bool
	add("status [TARGET...]", "Show what is installed and available, and the last attempt", `
It also shows what keeps scheduled runs from installing what is available, and
when the source is asked next.
"unsigned" under TRUST: only the connection to the source authenticates a
release. "signed": the keys of its publisher do, and a line warns before their
signatures expire.
--check prints one short line for a MachineMon script check, and exits 1 after
an update of the target that failed, was rolled back, or that no probe proves.`, cobra.ArbitraryArgs, a.completeAny, func(args []string) error {
		if forCheck {
			return a.statusCheck(args)
		}
		return a.status(args)
	}).Flags().BoolVar(&forCheck, "check", false, "one line about one target, for a MachineMon check")
	apply := state.Request{Verb: state.VerbApply}
	addForRoot("apply [TARGET...]", "Update the targets now (no target: all of them)", `
One target after the other, also if auto_update_enabled is false. A release that
was rejected, or that its publisher disabled, is not installed. Ctrl-C leaves:
the attempt goes on without you.
--dry-run downloads, verifies and tries the release up to the swap, says what
would be replaced, and leaves nothing behind. Exit status 3 says that there is
an update.`, cobra.ArbitraryArgs, a.completeAny, func(args []string) error { return a.each(args, a.asking(apply)) }).
		Flags().BoolVar(&apply.DryRun, "dry-run", false, "end before anything is replaced")
	add("check [TARGET...]", "Ask the sources what is available (no target: all of them)", `
Installs nothing; exit status 3 says that there is an update. What root finds is
recorded, and "status" shows it.`, cobra.ArbitraryArgs, a.completeAny, a.check)
	add("check-config [TARGET|FILE...]", "Check target files (no argument: those of all targets)", `
Exit status 2 says that one is refused; the line names file, line and key. FILE
is a target file that is not in its place yet: neither owners nor directories on
this machine matter to it.`, cobra.ArbitraryArgs, a.completeConfig, a.checkConfig)
	add("doctor [TARGET...]", "Examine what could keep targets from their updates", `
Each line is ok, warn or bad, with its cure; exit status 1 says that one is bad.
The sources are asked as by check, and root tries the probes as by probe.
Nothing is updated or restarted.`, cobra.ArbitraryArgs, a.completeAny, a.doctor)
	a.addInit(addForRoot)
	add("history [TARGET [ATTEMPT]]", "Show the attempts on a target (none: on all), newest first", `
With the ID of an attempt whose trial failed, root sees what was kept of it:
what each probe was answered, and what the program and the steps logged, in the
order of time. The log of any attempt:
  journalctl MACHINEMON_ATTEMPT=ID`, upToAttempt, a.completeAttempt, a.history)
	addForRoot("rollback TARGET", "Go back to the previous release, and reject the present one", `
One previous release is kept. "apply" leaves the rejected one alone until there
is another release, or "unskip".`, oneTarget, oneOnly, func(args []string) error { return a.each(args, a.asking(state.Request{Verb: state.VerbRollback})) })
	addForRoot("drill TARGET", "Try a program that fails, and see that it is rolled back", `
A program that ends at once takes the place of the installed one, as a release
would that does not start: the service is restarted, the health gate must notice,
and the rollback brings the installed program back. It says how long the service
was away, by systemd's clock. Exit status 0: it went as it must; 1: the gate did
not notice. Nothing is rejected, and no notice is sent. Hooks do not run. What
[rollback] saves is saved while the service is stopped.`, oneTarget, oneOnly, func(args []string) error { return a.each(args, a.asking(state.Request{Verb: state.VerbDrill})) })
	addForRoot("settle TARGET keep|back", "End a trial whose rollback failed", `
After exit status 5 the trial stays open until you decide, and nothing else
touches the target but the next boot. "keep" ends it with the files that are
installed now, yours included. "back" tries the rollback once more; a file that
is not the update's is moved aside, and its new name is in the log.`, targetAndWord, thenDecision, a.settle)
	addForRoot("probe TARGET", "Try the health probes now, as before an update", `
Shows of each probe whether it passes, what was answered and how long that took.
Exits with 0 if the unit runs as it must and every probe passes, else with 1.
A probe that never passed here is not believed: where there is no other,
scheduled runs install nothing, and "apply" ends with "committed unproven".`, oneTarget, oneOnly, a.probe)
	var v string
	addForRoot("import TARGET FILE|URL[#sha256=DIGEST]|-", "Install a release from a file or a URL", `
FILE is a manifest with its archive beside it, an archive, or a directory with
both; URL is that of an archive, https or on this machine. With - it is read from
standard input, so that no user sees a secret in it. With #sha256=DIGEST at
its end the archive must have that digest. The release is verified and watched as
by apply. An archive without a manifest has the version V.`, targetAndFile, thenFile, func(args []string) error { return a.importRelease(args, v) }).
		Flags().StringVar(&v, "version", "", "the version `V` that the program of an archive reports")
	var sum string
	addForRoot("trust TARGET FILE --sha256 HEX", "Trust a publisher's root file or keys for a target", `
With trust.mode = "tuf", FILE is the repository's 1.root.json, or a later one;
with trust.mode = "signature", it has the publisher's public keys. Where it
comes from proves nothing; HEX, its SHA-256, must come from the publisher by
another way. Without --sha256 it only prints what the file has.
Another file takes the place of the one before: no release that was installed
since becomes acceptable again.`, targetAndPin, thenFile, func(args []string) error { return a.pin(args, sum) }).
		Flags().StringVar(&sum, "sha256", "", "`HEX` digest that the file must have")
	addForRoot("enable TARGET...", "Let scheduled runs install what they find", `
They check by themselves every auto_update_check_every_seconds, and otherwise
only report what is available. This writes the drop-in
  /etc/machinemon-update/targets.d/TARGET.toml.d/90-auto-update.toml`, someTargets, a.completeAny, a.enable)
	addForRoot("disable TARGET...", "Let scheduled runs only report what is available", "", someTargets, a.completeAny, a.disable)
	addForRoot("hold TARGET...", "Keep targets from every update and rollback until unhold", `
Checks go on.`, someTargets, a.completeAny, a.hold)
	addForRoot("unhold TARGET...", "Let held targets be updated again", "", someTargets, a.completeAny, a.unhold)
	addForRoot("skip TARGET...", "Reject the release that the last check found", `
Another release is installed as usual.`, someTargets, a.completeAny, a.skip)
	addForRoot("unskip TARGET...", "Forget which releases were rejected, by a failed trial or by skip", "", someTargets, a.completeAny, a.unskip)
	var test bool
	addForRoot("notify --test TARGET", "Tell people something, as a test of [notify]", `
Sends a test by mail, webhook and command, as the target file or
/etc/machinemon-update/notify.toml says, and waits until it is sent.`, oneTarget, oneOnly, func(args []string) error { return a.notifyTest(args, test) }).
		Flags().BoolVar(&test, "test", false, "send a test")
	addForRoot("directive TARGET", "Check at once if a check-in response announces another version", `
Reads MachineMon's response on standard input; of its fields only update_version
counts. What is installed, and whether, is decided as in a scheduled run.`, oneTarget, oneOnly, a.directive)
	add("version", "Print the version of this program", "", cli.NoArgs, cobra.NoFileCompletions, func([]string) error {
		return a.print(map[string]string{"version": version}, "machinemon-update "+version+"\n")
	})
	a.worst(cli.Run(root, exitOf))
	return a.exit
}

// exitOf returns the exit status for an error of the command itself.
func exitOf(err error) int {
	if _, config := errors.AsType[*target.ConfigError](err); config || cli.IsUsage(err) {
		return cli.ExitUsage
	}
	return state.ResultOf(err).Exit()
}

// The arguments that the verbs accept.
var (
	someTargets   = cli.Args("a target", listsThem, cli.AtLeast(1))
	oneTarget     = cli.Args("exactly one target", listsThem, cli.Exactly(1))
	targetAndFile = cli.Args("a target and a file or URL", "machinemon-update status lists the targets", cli.Exactly(2))
	targetAndPin  = cli.Args("a target and a file of a root or of keys", "", cli.Exactly(2))
	targetAndWord = cli.Args("a target, and keep or back", "", func(args []string) bool {
		return len(args) == 2 && (args[1] == "keep" || args[1] == "back")
	})
)

const listsThem = "machinemon-update status lists them"

// choose returns the named targets, or all if names is empty. A target without a file is
// included while its trial is open.
func (a *app) choose(names []string) ([]string, error) {
	all, err := a.targets.Names()
	if err != nil {
		return nil, err
	}
	open, err := a.tree.OpenTrials()
	if err != nil {
		return nil, err
	}
	all = append(all, open...)
	slices.Sort(all)
	all = slices.Compact(all)
	if len(names) == 0 {
		return all, nil
	}
	var chosen []string
	for _, n := range names {
		if !slices.Contains(all, n) {
			hint := cmp.Or(nearest.Hint(n, all), "machinemon-update status lists the targets")
			return nil, cli.Usagef("cannot find target %q: no file in %s or %s describes it (hint: %s)", n, a.targets.Admin, a.targets.Vendor, hint)
		}
		if !slices.Contains(chosen, n) {
			chosen = append(chosen, n)
		}
	}
	return chosen, nil
}

// load loads a target that the operator names.
func (a *app) load(name string) (*target.Target, error) {
	if _, err := a.choose([]string{name}); err != nil {
		return nil, err
	}
	return a.targets.Load(name)
}

// noTargets returns the text for a machine without targets.
func (a *app) noTargets() string {
	return fmt.Sprintf("no targets: no file in %s or %s (hint: sudo machinemon-update init UNIT describes a service that runs)\n", a.targets.Admin, a.targets.Vendor)
}

func (a *app) needRoot(c *cobra.Command, args []string) error {
	if a.root {
		return nil
	}
	again := []string{c.Name()}
	c.Flags().Visit(func(f *pflag.Flag) {
		again = append(again, "--"+f.Name)
		if f.Value.Type() != "bool" {
			again = append(again, f.Value.String())
		} else if f.Value.String() != "true" {
			again[len(again)-1] += "=" + f.Value.String()
		}
	})
	return cli.Usagef("cannot %s: only root may (hint: sudo machinemon-update %s)", c.Name(), strings.Join(append(again, args...), " "))
}

// worst keeps the worst exit status of several targets.
func (a *app) worst(exit int) {
	if state.WorseExit(exit, a.exit) {
		a.exit = exit
	}
}

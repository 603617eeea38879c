// Package command is the operator's command: it asks the chain to do its work,
// follows it, and shows what the roles recorded.
//
// It changes no installed file and writes no state. As root it leaves requests
// in /run/machinemon-update/request and starts units; everybody else may look.
// What it shows of the fetcher's and the verifier's records was written by
// roles that are not believed, and is printed without control characters.
package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// The exit statuses that no result of an attempt has.
const (
	exitUsage     = 2
	exitAvailable = 3
	// exitDetached is the shell's convention for an end by SIGINT: the update
	// goes on, and its end is not known.
	exitDetached = 130
)

// app is what the verbs share.
type app struct {
	tree     state.Tree
	targets  target.Dirs
	out, err io.Writer
	json     bool
	terminal bool // err is one: progress may be drawn
	root     bool
	exit     int
}

// usageError is an error with exit status 2.
type usageError struct{ error }

const long = `machinemon-update updates daemons that are shipped as tarballs: verified, atomic,
watched, and rolled back when the new version is not healthy.

  machinemon-update                      show every target
  sudo machinemon-update apply agent     update the target "agent" now
  machinemon-update history agent        show how its updates went

A target is a file in /etc/machinemon-update/targets.d or
/usr/lib/machinemon-update/targets.d.

Exit status: 0 done or already current; 1 failed, nothing changed; 2 usage or
configuration error; 3 (check) an update is available; 4 failed and rolled back;
5 failed, and so did the rollback; 6 refused: verification failed; 7 could not
download; 8 not attempted.`

// Main runs the command and returns its exit status.
func Main(args []string, version string) int {
	a := &app{
		tree: state.System, targets: target.DefaultDirs, out: os.Stdout, err: os.Stderr,
		terminal: term.IsTerminal(int(os.Stderr.Fd())), root: os.Geteuid() == 0,
	}
	return a.main(args, version)
}

func (a *app) main(args []string, version string) int {
	root := &cobra.Command{
		Use: "machinemon-update", Short: "update daemons that are shipped as tarballs", Long: long,
		SilenceUsage: true, SilenceErrors: true, Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return a.status(nil) },
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	add := func(use, short string, args cobra.PositionalArgs, run func([]string) error) {
		root.AddCommand(&cobra.Command{Use: use, Short: short, Args: args, ValidArgsFunction: a.complete,
			RunE: func(_ *cobra.Command, args []string) error { return run(args) }})
	}
	add("status [TARGET...]", "show what is installed, what is available and how the last attempt went", cobra.ArbitraryArgs, a.status)
	add("apply [TARGET...]", "update the targets now (no target: all of them)", cobra.ArbitraryArgs, a.apply)
	add("check [TARGET...]", "ask the sources what is available; exit status 3 if there is an update", cobra.ArbitraryArgs, a.check)
	add("history TARGET", "show the attempts on a target, newest first", oneTarget, a.history)
	add("rollback TARGET", "go back to the previous release, and reject the one that it leaves", oneTarget, a.rollback)
	add("version", "print the version of this program", noArgs, func([]string) error {
		return a.print(map[string]string{"version": version}, "machinemon-update "+version+"\n")
	})
	if err := root.Execute(); err != nil {
		fmt.Fprintf(a.err, "machinemon-update: %s\n", clean(err.Error()))
		var usage usageError
		var config *target.ConfigError
		switch {
		case errors.As(err, &usage), errors.As(err, &config), strings.HasPrefix(err.Error(), "unknown command"):
			return exitUsage
		case a.exit == 0:
			return 1
		}
	}
	return a.exit
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unknown command %q (hint: machinemon-update --help)", args[0])}
	}
	return nil
}

func oneTarget(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{fmt.Errorf("%s needs exactly one target (hint: machinemon-update status lists them)", c.Name())}
	}
	return nil
}

func (a *app) complete(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	names, err := a.targets.Names()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// choose returns the named targets, or all.
func (a *app) choose(names []string) ([]string, error) {
	all, err := a.targets.Names()
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return all, nil
	}
	var chosen []string
	for _, n := range names {
		if !slices.Contains(all, n) {
			return nil, usageError{fmt.Errorf("cannot find target %q: no file in %s or %s describes it", n, a.targets.Admin, a.targets.Vendor)}
		}
		if !slices.Contains(chosen, n) {
			chosen = append(chosen, n)
		}
	}
	return chosen, nil
}

func (a *app) needRoot(verb string) error {
	if a.root {
		return nil
	}
	return usageError{fmt.Errorf("cannot %s: only root may (hint: sudo machinemon-update %s)", verb, verb)}
}

// severity orders exit statuses from the worst to the best.
var severity = []int{exitDetached, 5, 4, 6, 7, 1, 2, 8, 3, 0}

// worst keeps the worst exit status of several targets.
func (a *app) worst(exit int) {
	if slices.Index(severity, exit) < slices.Index(severity, a.exit) {
		a.exit = exit
	}
}

// clean takes out what could steer a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

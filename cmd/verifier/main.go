// Verifier runs in machinemon-verify@T.service: it turns the newest bundle of target T
// into a verified tree for the swapper, or refuses it. Its exit status is that of the
// result, and 0 if it handed the tree on or had nothing to do. It is 1 if the verifier
// asked for the full archive instead of deltas.
//
// With --list it writes what is in the archive on its standard input, for the swapper.
package main

import (
	"fmt"
	"os"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/verify"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: verifier TARGET (run by machinemon-verify@TARGET.service)")
		os.Exit(2)
	}
	if os.Args[1] == "--list" {
		if err := verify.List(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// No signal is caught, so a signal ends the program by itself and never looks like
	// success.
	lines := log.New("verify", os.Args[1])
	a, asked, err := verify.Run(state.System, target.DefaultDirs, os.Args[1])
	switch {
	case asked != nil:
		lines.Attempt, lines.Version = a.ID, a.Version
		lines.Printf("%s: attempt %s: asking for the full archive: %s", os.Args[1], a.ID, asked.Reason)
	case a.ID != "":
		lines.Ended(a)
	}
	switch {
	case err != nil:
		lines.Error(err)
		os.Exit(1)
	case a.ID != "" && a.Result != state.ResultHandedOn:
		os.Exit(a.Result.Exit())
	}
}

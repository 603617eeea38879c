// Fetcher runs in machinemon-fetch@T.service: it brings the release that the
// source of target T offers to the verifier, as far as the order of the attempt
// wants it.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/machinemon/machinemon-update/internal/fetch"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: fetcher TARGET (run by machinemon-fetch@TARGET.service)")
		os.Exit(2)
	}
	// No signal is caught: one that ends the program ends it by that signal, and
	// never looks like success.
	a, exit, err := fetch.Run(context.Background(), state.System, target.DefaultDirs, os.Args[1], progress())
	if a.ID != "" {
		fmt.Fprintln(os.Stderr, a.Line(os.Args[1]))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(exit)
}

// progress sets the unit's status text. When that fails once it says so and
// stops trying: a download is not worth less without it.
func progress() func(done, total int64) {
	broken := false
	return func(done, total int64) {
		if broken {
			return
		}
		if err := systemd.Notify(systemd.ProgressText(done, total)); err != nil {
			broken = true
			fmt.Fprintf(os.Stderr, "cannot report progress: %v\n", err)
		}
	}
}

// Fetcher runs in machinemon-fetch@T.service: it brings the release that the
// source of target T offers to the verifier, as far as the order of the attempt
// wants it.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/machinemon/machinemon-update/internal/fetch"
	"github.com/machinemon/machinemon-update/internal/log"
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
	lines := log.New("fetch", os.Args[1])
	log.Status("asking the source")
	a, exit, err := fetch.Run(context.Background(), state.System, target.DefaultDirs, os.Args[1], func(done, total int64) {
		log.Status(systemd.ProgressText(done, total))
	})
	if a.ID != "" {
		lines.Ended(a)
	}
	if err != nil {
		lines.Error(err)
	}
	os.Exit(exit)
}

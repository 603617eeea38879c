// Fetcher runs in machinemon-fetch@T.service: it brings the release that the
// source of target T offers to the verifier, as far as the order of the attempt
// wants it. With "full" it runs in machinemon-fetch-full@T.service, and brings it
// once more, without deltas, if the verifier could not use those.
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
	stage, run, args := "fetch", fetch.Run, os.Args[1:]
	if len(args) == 2 && args[0] == "full" {
		stage, run, args = "fetch-full", fetch.Full, args[1:]
	}
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: fetcher [full] TARGET (run by machinemon-fetch@TARGET.service)")
		os.Exit(2)
	}
	// No signal is caught: one that ends the program ends it by that signal, and
	// never looks like success.
	lines := log.New(stage, args[0])
	log.Status("asking the source")
	a, exit, err := run(context.Background(), state.System, target.DefaultDirs, args[0], func(done, total int64) {
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

// Fetcher runs in machinemon-fetch@T.service: it brings the release at the source of
// target T to the verifier, as the order of the attempt requires. With "full" it runs in
// machinemon-fetch-full@T.service, and brings the release again without deltas if the
// verifier could not use those. With "unlock" it runs in machinemon-unlock@T.service, and gives
// the lock of the fleet back. The command runs it with "look" or "import", outside of
// the chain, and reads its answer; with "survey" or "archive" it runs it in a sandbox, for a
// source that no target has yet.
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
	if len(args) == 2 && args[0] == "unlock" {
		if err := fetch.Unlock(context.Background(), state.System, args[1]); err != nil {
			log.New(args[0], args[1]).Error(err)
			os.Exit(1)
		}
		return
	}
	if answer(args) {
		return
	}
	if len(args) == 2 && args[0] == "full" {
		stage, run, args = "fetch-full", fetch.Full, args[1:]
	}
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: fetcher [full|unlock] TARGET (run by machinemon-fetch@TARGET.service)")
		os.Exit(2)
	}
	// No signal is caught, so a signal ends the program by itself and never looks like
	// success.
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

// answer does what the command asked for, and reports whether args are such a request.
func answer(args []string) bool {
	var err error
	switch {
	case len(args) == 3 && args[0] == "look":
		err = fetch.AnswerLook(context.Background(), state.System, target.DefaultDirs, args[1], args[2], os.Stdout)
	case len(args) == 5 && args[0] == "import":
		err = fetch.AnswerImport(context.Background(), state.System, target.DefaultDirs, args[1], target.Named{Path: args[2], SHA256: args[3], Version: args[4]}, os.Stdout)
	case len(args) > 2 && len(args) < 5 && args[0] == "survey":
		err = fetch.AnswerSurvey(context.Background(), surveyed(args[1:]), os.Stdout)
	case len(args) > 2 && len(args) < 5 && args[0] == "archive":
		err = fetch.WriteArchive(context.Background(), surveyed(args[1:]), os.Stdout)
	default:
		return false
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func surveyed(args []string) fetch.Surveyed {
	s := fetch.Surveyed{Type: args[0], Address: args[1]}
	if len(args) > 2 {
		s.Asset = args[2]
	}
	return s
}

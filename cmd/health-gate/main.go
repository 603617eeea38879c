// Health-gate runs as user machinemon-gate and finds out how target T fares.
//
// In machinemon-baseline@T.service `health-gate baseline T` writes down how it
// fares without a trial; its exit status is 0 when it did.
//
// In machinemon-health-gate@T.service `health-gate gate T` judges the open
// trial. Its exit status is the verdict: 0 healthy, 1 bad, 3 cannot tell. Any
// other, and every signal, leaves no report: the trial was interrupted. Without
// a trial it is 0, and there is no report either.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/machinemon/machinemon-update/internal/health"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

const usage = `usage: health-gate baseline TARGET (run by machinemon-baseline@TARGET.service)
       health-gate gate TARGET     (run by machinemon-health-gate@TARGET.service)
`

// No signal is caught: one that ends the program ends it by that signal, and
// never looks like a verdict.
func main() {
	if len(os.Args) != 3 {
		fail(usage)
	}
	g := health.NewGate(state.System, target.DefaultDirs, say)
	switch name := os.Args[2]; os.Args[1] {
	case "baseline":
		b, err := g.Baseline(context.Background(), name)
		if err != nil {
			fail(err.Error() + "\n")
		}
		fmt.Fprintf(os.Stderr, "%s: attempt %s: %s\n", name, b.Attempt, health.Summary(b))
	case "gate":
		r, err := g.Judge(context.Background(), name)
		if err != nil {
			fail(err.Error() + "\n")
		}
		if r != nil {
			fmt.Fprintf(os.Stderr, "%s: attempt %s: %s\n", name, r.Attempt, health.Verdict(*r))
			os.Exit(status(r.Finding))
		}
	default:
		fail(usage)
	}
}

// status is the exit status that tells systemd, and people, the finding.
func status(f state.Finding) int {
	switch f {
	case state.Healthy:
		return 0
	case state.Bad:
		return 1
	}
	return 3
}

func fail(text string) {
	fmt.Fprint(os.Stderr, text)
	os.Exit(2)
}

func say(status string) {
	if err := systemd.Notify(status); err != nil {
		fmt.Fprintf(os.Stderr, "cannot tell systemd the status: %v\n", err)
	}
}

// Health-gate runs as user machinemon-gate and checks the health of target T.
//
// In machinemon-baseline@T.service, `health-gate baseline T` records the health outside of
// a trial. Its exit status is 0 if that succeeded.
//
// In machinemon-health-gate@T.service, `health-gate gate T` judges the open trial. Its
// exit status decides the verdict: 0 healthy, 1 bad, 3 cannot tell. After any other
// status, and any signal, there is no report, and the trial was interrupted. Without a
// trial the status is 0, and there is no report either.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/machinemon/machinemon-update/internal/health"
	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

const usage = `usage: health-gate baseline TARGET (run by machinemon-baseline@TARGET.service)
       health-gate gate TARGET     (run by machinemon-health-gate@TARGET.service)
`

// main catches no signal, so a signal ends the program by itself and never looks like a
// verdict.
func main() {
	if len(os.Args) != 3 {
		usageError()
	}
	verb, name := os.Args[1], os.Args[2]
	lines := log.New(map[string]string{"baseline": "baseline", "gate": "health-gate"}[verb], name)
	g := health.NewGate(state.System, target.DefaultDirs, lines)
	switch verb {
	case "baseline":
		b, err := g.Baseline(context.Background(), name)
		if errors.Is(err, health.ErrNoAttempt) {
			lines.Printf("%s: %v", name, err)
			return
		}
		if err != nil {
			lines.Error(err)
			os.Exit(2)
		}
		lines.Printf("%s: attempt %s: %s", name, b.Attempt, health.Summary(b))
	case "gate":
		r, err := g.Judge(context.Background(), name)
		if err != nil {
			lines.Error(err)
			os.Exit(2)
		}
		if r != nil {
			lines.Printf("%s: attempt %s: %s", name, r.Attempt, health.Verdict(*r))
			os.Exit(status(r.Finding))
		}
	default:
		usageError()
	}
}

// status returns the exit status that reports the finding to systemd and to users.
func status(f state.Finding) int {
	switch f {
	case state.FindingHealthy:
		return 0
	case state.FindingBad:
		return 1
	}
	return 3
}

func usageError() {
	fmt.Fprint(os.Stderr, usage)
	os.Exit(2)
}

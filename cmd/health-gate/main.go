// Health-gate checks the health of target T. It writes its report, as JSON, to its standard
// output, which systemd opens for it.
//
// In machinemon-baseline@T.service, `health-gate baseline T` reports the health outside of
// a trial. Its exit status is 0 if that succeeded.
//
// In machinemon-health-gate@T.service, `health-gate gate T` judges the open trial. Its
// exit status decides the verdict: 0 healthy, 1 bad, 3 cannot tell. After any other
// status, and any signal, there is no report, and the trial was interrupted. Without a
// trial the status is 0, and there is no report either.
//
// In machinemon-command@T.service, `health-gate commands T` runs the target's commands for
// the other two. They start `health-gate inspector`, which reads /proc for them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/machinemon/machinemon-update/internal/health"
	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

const usage = `usage: health-gate baseline TARGET (run by machinemon-baseline@TARGET.service)
       health-gate gate TARGET     (run by machinemon-health-gate@TARGET.service)
       health-gate commands TARGET (run by machinemon-command@TARGET.service)
`

// stages are the names of the verbs' units, without "machinemon-".
var stages = map[string]string{"baseline": "baseline", "gate": "health-gate", "commands": "command"}

// main catches no signal, so a signal ends the program by itself and never looks like a
// verdict.
func main() {
	if len(os.Args) == 2 && os.Args[1] == "inspector" {
		if err := health.Inspect(os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "health-gate inspector:", err)
			os.Exit(2)
		}
		return
	}
	if len(os.Args) != 3 || stages[os.Args[1]] == "" {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	verb, name := os.Args[1], os.Args[2]
	lines := log.New(stages[verb], name)
	exit, err := run(context.Background(), verb, name, lines)
	if err != nil {
		lines.Error(err)
	}
	os.Exit(exit)
}

// run returns the exit status.
func run(ctx context.Context, verb, name string, lines *log.Log) (int, error) {
	if verb == "commands" {
		return commands(ctx, name)
	}
	if err := health.SplitOff("inspector"); err != nil {
		return 2, fmt.Errorf("cannot give up CAP_SYS_PTRACE: %w", err)
	}
	g, err := health.NewGate(state.System, target.DefaultDirs, lines)
	if err != nil {
		return 2, err
	}
	if verb == "baseline" {
		b, err := g.Baseline(ctx, name)
		if errors.Is(err, health.ErrNoAttempt) {
			lines.Printf("%s: %v", name, err)
			return 0, nil
		}
		if err == nil {
			lines.Printf("%s: attempt %s: %s", name, b.Attempt, health.Summary(b))
			err = written(b.Write(os.Stdout))
		}
		if err != nil {
			return 2, err
		}
		return 0, nil
	}
	r, err := g.Judge(ctx, name)
	if err == nil && r == nil {
		lines.Printf("%s: there is no trial to judge", name)
	}
	if err != nil || r == nil {
		return status(err), err
	}
	lines.Printf("%s: attempt %s: %s", name, r.Attempt, health.Verdict(*r))
	if err := written(r.Write(os.Stdout)); err != nil {
		return 2, err
	}
	switch r.Finding {
	case state.FindingHealthy:
		return 0, nil
	case state.FindingBad:
		return 1, nil
	}
	return 3, nil
}

// written returns the error of writing a report.
func written(err error) error {
	if err != nil {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	return nil
}

// commands serves the socket that systemd has opened.
func commands(ctx context.Context, name string) (int, error) {
	t, err := target.DefaultDirs.Load(name)
	if err != nil {
		return 2, err
	}
	sockets, err := activation.Listeners()
	if err == nil && len(sockets) != 1 {
		err = fmt.Errorf("cannot run commands: %d sockets instead of 1 (hint: start machinemon-command@%s.socket)", len(sockets), name)
	}
	if err == nil {
		err = health.ServeCommands(ctx, sockets[0], t)
	}
	return status(err), err
}

// status returns the exit status without a finding.
func status(err error) int {
	if err != nil {
		return 2
	}
	return 0
}

// Command swapper changes installed programs; see package swap. These systemd units start
// it: machinemon-accounts@, machinemon-directive@, machinemon-fetch@ (begin), machinemon-swap@,
// machinemon-commit@, machinemon-rollback@, machinemon-inform@, machinemon-unlock@ and
// machinemon-update-recover.service. The
// removal of the package runs it, too (leave). The verbs of package snapshot are for a
// transient unit that runs as the user of a managed unit.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/machinemon/machinemon-update/internal/inform"
	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/snapshot"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/swap"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

var version = "unknown" // set by the linker

const usage = `usage: swapper accounts|directive|begin|swap|commit|rollback|inform|unlock|unlock-later TARGET
       swapper recover|leave
       swapper version
       swapper ` + snapshot.Usage

func main() {
	// Signals are not handled, so that the exit status names the signal that ended it.
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	if len(args) > 0 && snapshot.Verbs[args[0]] != nil {
		return ofUser(snapshot.Verbs[args[0]], args[1:])
	}
	verb, name := "", ""
	switch len(args) {
	case 1:
		verb = args[0]
	case 2:
		verb, name = args[0], args[1]
	}
	steps := map[string]func(*swap.Swapper, context.Context, string) error{
		"accounts": (*swap.Swapper).MakeAccounts, "directive": (*swap.Swapper).Directive,
		"begin": (*swap.Swapper).Begin, "swap": (*swap.Swapper).Swap,
		"commit": (*swap.Swapper).Commit, "rollback": (*swap.Swapper).Rollback, "inform": tell,
		"unlock": (*swap.Swapper).MayUnlock, "unlock-later": (*swap.Swapper).UnlockLater,
	}
	if verb == "version" && name == "" {
		fmt.Println(version)
		return 0
	}
	if name == "" {
		steps = map[string]func(*swap.Swapper, context.Context, string) error{
			"recover": func(s *swap.Swapper, ctx context.Context, _ string) error { return s.Recover(ctx) },
			"leave":   func(s *swap.Swapper, ctx context.Context, _ string) error { return s.Leave(ctx) },
		}
	}
	step, ok := steps[verb]
	if !ok {
		fmt.Fprintln(os.Stderr, usage)
		return 2
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "swapper: needs root")
		return 2
	}
	lines := log.New(verb, name)
	ctx := context.Background()
	s := &swap.Swapper{Tree: state.System, Targets: target.DefaultDirs, Log: lines, Boot: os.Getenv("MACHINEMON_BOOT_ID")}
	conn, err := connect(ctx, verb)
	if err != nil {
		lines.Error(err)
		return 1
	}
	if conn != nil {
		defer conn.Close()
		s.Systemd = conn
	}
	if err := step(s, ctx, name); err != nil {
		lines.Error(err)
		if verb == "begin" {
			// The unit is skipped, which starts no other one.
			if err := s.Systemd.Queue(ctx, "machinemon-inform@"+name+".service"); err != nil {
				lines.Error(err)
			}
			// The unit's SuccessExitStatus= holds for its ExecCondition=, too: with a
			// status that is listed there, the fetcher would run all the same.
			return 1
		}
		return swap.ExitStatus(err)
	}
	return 0
}

// connect returns a connection to systemd, or nil for a verb that needs none. What ends a trial
// or a package works without the bus.
func connect(ctx context.Context, verb string) (*systemd.Conn, error) {
	switch {
	case verb == "accounts", verb == "leave" && !systemd.Running():
		return nil, nil
	case verb == "rollback", verb == "recover", verb == "leave":
		return systemd.ConnectPrivate(ctx)
	}
	return systemd.Connect(ctx)
}

// late is when the sender runs once more. A notice that comes while it ends would wait for
// the next attempt.
const late = 2 * time.Minute

// tell informs others how a target fares, after an attempt.
func tell(s *swap.Swapper, ctx context.Context, name string) error {
	i := inform.Informer{Tree: s.Tree, Targets: s.Targets, Metrics: os.Getenv("MACHINEMON_METRICS"), Wake: func(name string) error {
		return errors.Join(s.Systemd.Arm(ctx, systemd.NotifyTimer(name), late), s.Systemd.Queue(ctx, systemd.NotifyUnit(name)))
	}}
	return errors.Join(i.Inform(name), s.QueueUnlock(ctx, name))
}

// ofUser runs a verb that needs neither root nor systemd, and returns its exit status.
func ofUser(verb snapshot.Verb, args []string) int {
	err := verb(os.Stdout, args)
	if errors.Is(err, snapshot.ErrUsage) {
		fmt.Fprintln(os.Stderr, usage)
		return 2
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Command notifier tells people what happened to target T; see package notify.
// machinemon-notify@T.service runs `notifier post T`, in a sandbox, and then
// `notifier hand T`, as root.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/notify"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

func main() {
	if len(os.Args) != 3 || os.Args[1] != "post" && os.Args[1] != "hand" || !target.ValidName(os.Args[2]) {
		fmt.Fprintln(os.Stderr, "usage: notifier post|hand TARGET (run by machinemon-notify@TARGET.service)")
		os.Exit(2)
	}
	name, lines := os.Args[2], log.New("notify", os.Args[2])
	s := notify.Sender{Tree: state.System, Targets: target.DefaultDirs, Log: lines, Mailer: "/usr/sbin/sendmail",
		Credentials: os.Getenv("CREDENTIALS_DIRECTORY"), Again: again}
	do := s.Post
	if os.Args[1] == "hand" {
		do = s.Hand
	}
	if err := do(context.Background(), name); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") { // one for each way
			lines.Error(errors.New(line))
		}
		os.Exit(1)
	}
}

// again has systemd start the unit again.
func again(ctx context.Context, name string, after time.Duration) error {
	conn, err := systemd.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Arm(ctx, systemd.NotifyTimer(name), after)
}

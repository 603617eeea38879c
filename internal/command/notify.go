package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// notifyTest sends a test in all ways in which events of a target are told, as an event is
// sent, and waits for the end.
func (a *app) notifyTest(args []string, test bool) error {
	if !test {
		return cli.Usagef("cannot notify without --test: events are told by themselves (hint: machinemon-update notify --test %s)", args[0])
	}
	t, err := a.load(args[0])
	if err != nil {
		return err
	}
	if t.Unnotified != "" {
		return state.Fail(state.ResultMisconfigured, "cannot test the notification of %s: %s", t.Name, t.Unnotified)
	}
	ways := t.Notify.Ways()
	if len(ways) == 0 {
		return state.Fail(state.ResultMisconfigured, "cannot test the notification of %s: there is none (hint: [notify] in the target file, or in %s)", t.Name, a.targets.NotifyFile())
	}
	host, _ := os.Hostname()
	n := state.Notice{Event: "test", Target: t.Name, Host: host, Time: time.Now().UTC(), Reason: "machinemon-update notify --test"}
	for _, way := range ways {
		if err := a.tree.AddNotice(way, n); err != nil {
			return err
		}
	}
	// The sender's account and token are those of systemd's last reload.
	if err := a.reload(); err != nil {
		return err
	}
	var late, said []string
	for range 2 { // the sender may be at its end already, and then tells the rest the next time
		if said, err = a.send(t.Name); err != nil {
			return err
		}
		late = nil
		for _, way := range ways {
			waiting, err := a.tree.WaitingNotices(t.Name, way)
			if err != nil {
				return err
			}
			if len(waiting) > 0 {
				late = append(late, way)
			}
		}
		if len(late) == 0 {
			break
		}
	}
	if len(late) > 0 {
		return untold(t.Name, late, said)
	}
	return a.print(map[string]any{"target": t.Name, "told": ways}, fmt.Sprintf("%s: told by %s\n", t.Name, strings.Join(ways, " and ")))
}

// untold returns the error that a target's test was not told in these ways, with the causes
// among the lines of the sender.
func untold(name string, ways, said []string) error {
	hint := "journalctl -u " + systemd.NotifyUnit(name) + " has all that the sender said"
	var causes []string
	for _, way := range ways {
		cause := "by " + way
		for _, line := range said {
			if _, why, is := strings.Cut(line, " of "+name+" by "+way+": "); is {
				if text, cure, has := strings.Cut(why, " (hint: "); has {
					why, hint = text, strings.TrimSuffix(cure, ")")
				}
				cause = "by " + way + ": " + why
			}
		}
		causes = append(causes, cause)
	}
	return fmt.Errorf("cannot tell of %s %s; it is tried again (hint: %s)", name, strings.Join(causes, ", and "), hint)
}

// sendNotices starts the sender of a target's notices and waits for its end. What it could
// not send still waits in the spool; said are the lines of a sender that failed.
func sendNotices(name string) (said []string, err error) {
	ctx := context.Background()
	conn, err := systemd.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	since, err := systemd.Monotonic()
	if err != nil {
		return nil, err
	}
	err = conn.Start(ctx, systemd.NotifyUnit(name))
	if _, failed := errors.AsType[*systemd.JobError](err); failed {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		// Without the lines, the command's error names the journal, which then says why.
		said, _ = conn.LinesSince(ctx, systemd.NotifyUnit(name), since)
		return said, nil
	}
	return nil, err
}

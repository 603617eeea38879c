// Package notify tells people what happened to a target: it posts the notices in the
// target's spool to a server, mails them, or runs a command for each. A notice stays in the
// spool until it has been told, or for three days.
//
// Post runs without privileges. Hand runs as root, outside of a sandbox: a mail program is
// usually setuid or setgid, which a sandbox prevents. What it starts is not root.
package notify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// EventTest is the event of `machinemon-update notify --test`.
const EventTest = "test"

const (
	oldest   = 72 * time.Hour   // a notice that could not be told is dropped then
	soonest  = time.Minute      // between two tries at least
	latest   = time.Hour        // and at most
	patience = 30 * time.Second // for one try
)

// Sender tells the notices of the targets of one machine.
type Sender struct {
	Tree    state.Tree
	Targets target.Dirs
	Log     *log.Log
	// Credentials is the directory of what systemd hands over.
	Credentials string
	// Mailer is the program that takes a mail in.
	Mailer string
	// Again starts the sender again after some time.
	Again func(ctx context.Context, name string, after time.Duration) error
	// as makes a process that is not root's; nil in tests.
	as func(name string) (*asUser, error)
}

// each tells the notices that wait for a way, the oldest first, until one cannot be told.
func (s *Sender) each(ctx context.Context, name, way string, do func(context.Context, *target.Notify, state.Notice) error) error {
	waiting, err := s.Tree.WaitingNotices(name, way)
	if err != nil || len(waiting) == 0 {
		return err
	}
	n := s.Targets.NotifyOf(name)
	configured := strings.Contains(strings.Join(n.Ways(), " "), way)
	for _, w := range waiting {
		if !configured {
			s.Log.Printf("%s: %q is not told by %s any more", name, w.Event, way)
		} else if err := bounded(ctx, func(ctx context.Context) error { return do(ctx, n, w.Notice) }); err != nil {
			err = fmt.Errorf("cannot tell %q of %s by %s: %w", w.Event, name, way, err)
			if time.Since(w.Time) < oldest {
				return err
			}
			s.Log.Printf("%v; it is given up after %s", err, oldest)
		} else {
			s.Log.Printf("%s: told %q by %s", name, w.Event, way)
		}
		if err := s.Tree.DropNotice(name, w); err != nil {
			return err
		}
	}
	return nil
}

func bounded(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := do(ctx)
	if ctx.Err() != nil {
		return cmp.Or(err, ctx.Err())
	}
	return err
}

// Hand mails the notices of a target and runs its command. If any notice still waits, one
// of Post included, it has the sender run again: after a minute, and then as much later as
// the youngest of them is old, an hour at most.
func (s *Sender) Hand(ctx context.Context, name string) error {
	failed := errors.Join(s.each(ctx, name, target.WayMail, s.mail), s.each(ctx, name, target.WayCommand, s.command))
	var youngest time.Time
	for _, way := range []string{target.WayWebhook, target.WayMail, target.WayCommand} {
		waiting, err := s.Tree.WaitingNotices(name, way)
		failed = errors.Join(failed, err)
		for _, w := range waiting {
			if w.Time.After(youngest) {
				youngest = w.Time
			}
		}
	}
	if youngest.IsZero() {
		return failed
	}
	after := min(max(time.Since(youngest), soonest), latest)
	again := fmt.Errorf("not all is told of %s: the next try is in %s", name, after.Round(time.Second))
	return errors.Join(failed, again, s.Again(ctx, name, after))
}

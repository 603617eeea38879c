package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// outcomeOf is one target in the JSON of apply, check and rollback.
type outcomeOf struct {
	Target string `json:"target"`
	Exit   int    `json:"exit"`
	state.Attempt
}

// check makes the chain check the targets and record what it finds. A user that may not
// start units gets a check without records.
func (a *app) check(args []string) error {
	if !a.root {
		return a.each(args, a.checkUnprivileged)
	}
	return a.each(args, func(ctx context.Context, name string) (state.Attempt, error) {
		a.warn(ctx, name)
		return a.checkOne(ctx, name)
	})
}

// each calls run for one target after the other: the daemons of a machine should not all
// restart at the same time.
func (a *app) each(args []string, run func(context.Context, string) (state.Attempt, error)) error {
	names, err := a.choose(args)
	if err != nil {
		return err
	}
	if len(names) == 0 && !a.json {
		return a.print(nil, a.noTargets())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	outcomes, status := []outcomeOf{}, ""
	for _, name := range names {
		if ctx.Err() != nil {
			a.exit = exitDetached
			break
		}
		started := time.Now()
		at, err := run(ctx, name)
		if err != nil {
			if ctx.Err() != nil {
				fmt.Fprintf(a.err, "%s: %s\n", name, state.Printable(err.Error()))
				a.exit = exitDetached
				break
			}
			at.Time, at.Result, at.Reason = time.Now().UTC(), state.ResultOf(err), err.Error()
		}
		o := outcomeOf{name, at.Result.CommandExit(), at}
		a.worst(o.Exit)
		outcomes = append(outcomes, o)
		if !a.json {
			line := summary(name, at, time.Since(started))
			if status == "" || o.Exit != 0 && o.Exit == a.exit {
				status = line
			}
			fmt.Fprintln(a.out, state.Printable(line))
			for _, line := range below(name, at) {
				fmt.Fprintln(a.out, "  "+state.Printable(line))
			}
		}
	}
	if a.json {
		return a.print(map[string]any{"targets": outcomes}, "")
	}
	if status != "" {
		log.Status(status) // systemctl status shows the worst end, not the last step
	}
	return nil
}

// summary returns the end of an attempt in one line.
func summary(name string, at state.Attempt, took time.Duration) string {
	s := name + ": " + outcome(at)
	if at.Reason != "" {
		s += ": " + at.Reason
	}
	switch at.Result {
	case state.ResultCommitted, state.ResultUnproven:
		before := "the version before is unknown"
		if at.From != "" {
			before = "was " + at.From
		}
		s += fmt.Sprintf(" (%s) in %.1f s", before, took.Seconds())
	case state.ResultCurrent:
		s += fmt.Sprintf(" (%s)", cmp.Or(at.Version, at.From))
	case state.ResultAvailable:
		s += fmt.Sprintf(" (installed: %s)", cmp.Or(at.From, state.Unknown))
	case state.ResultRolledBack, state.ResultInterrupted:
		s += " (" + at.Aftermath() + ")"
	case state.ResultRollbackFailed:
		if hint := state.SettleHint(name); !strings.Contains(at.Reason, hint) {
			s += " (hint: see systemctl status, then " + hint + ")"
		}
	}
	return s + at.Detour()
}

// asking returns a function for each that asks the chain for an attempt.
func (a *app) asking(req state.Request) func(context.Context, string) (state.Attempt, error) {
	return func(ctx context.Context, name string) (state.Attempt, error) {
		return a.attempt(ctx, name, req, func() error {
			if t, err := a.targets.Load(name); err == nil { // the attempt reports the error
				a.warnAbout(name, t.Exposed())
			}
			return nil
		})
	}
}

// attempt asks the chain for an attempt and follows it to its end. It calls prepare,
// which provides the input of the request, once no other attempt is under way.
func (a *app) attempt(ctx context.Context, name string, req state.Request, prepare func() error) (state.Attempt, error) {
	at := state.Attempt{ID: state.NewAttempt(), Origin: state.OriginOperator, Time: time.Now().UTC()}
	unlock, err := a.operate(name)
	if err != nil {
		return at, err
	}
	defer unlock()
	conn, err := systemd.Connect(ctx, unitsOf(name)...)
	if err != nil {
		return at, err
	}
	defer conn.Close()
	first := unit("fetch", name)
	if req.Verb.FromHere() {
		first = unit("swap", name)
		if j, err := a.tree.Journal(name); err != nil {
			return at, err
		} else if j != nil && j.RollbackFailed != "" && req.Verb == state.VerbRollback {
			unlock() // settleOne takes it again
			return a.settleOne(ctx, name, state.VerbSettleBack)
		} else if j != nil {
			return at, state.Fail(state.ResultNotAttempted, "%s", onTrial(cmp.Or(j.Version, state.Unknown)))
		}
	}
	if err := notUnderWay(ctx, conn, name); err != nil {
		return at, err
	}
	if err := conn.ResetFailed(ctx, first); err != nil {
		return at, err
	}
	req.Attempt = at.ID
	if req.Verb.FromHere() {
		// The swapper reports errors of the target file.
		if t, err := a.targets.Load(name); err == nil {
			if req.MainID, err = state.MainID(t.Health.Main); err != nil {
				return at, err
			}
		}
	}
	if err := a.ask(ctx, conn, name, first, req, prepare); err != nil {
		if req.Import {
			err = errors.Join(err, a.tree.DropImport(name))
		}
		return at, err
	}
	f := &follower{tree: a.tree, conn: conn, name: name, attempt: at.ID, first: first, warned: req.Verb == state.VerbCheck}
	if !a.json {
		f.progress = &progress{to: a.err, terminal: a.terminal, name: name}
	}
	end, err := f.follow(ctx)
	switch {
	case err == nil && req.Import:
		err = a.tree.DropImport(name)
	case err == nil && req.URL != "": // the umbrella, which asks for no address, cannot write there
		err = a.tree.DropQuery(name)
	case err != nil && ctx.Err() != nil: // the next attempt removes an import that remains
		err = fmt.Errorf("detached, the attempt goes on (hint: journalctl -f -u 'machinemon-*@%s.service' follows it, machinemon-update status shows the result)", name)
	}
	return end, err
}

// ask writes the request and starts the first unit. It holds the target's lock meanwhile,
// so that no scheduled attempt takes the request or removes the import.
func (a *app) ask(ctx context.Context, conn *systemd.Conn, name, first string, req state.Request, prepare func() error) error {
	release, err := a.tree.Lock(name)
	if err != nil {
		return err
	}
	defer release()
	if err := prepare(); err != nil {
		return err
	}
	if err := a.tree.SetRequest(name, req); err != nil {
		return err
	}
	if err := conn.Queue(ctx, first); err != nil {
		_, terr := a.tree.TakeRequest(name) // no unit will
		return errors.Join(err, terr)
	}
	return nil
}

// operate locks a target for this command.
func (a *app) operate(name string) (unlock func(), err error) {
	unlock, err = a.tree.LockOperator(name)
	if errors.Is(err, state.ErrLocked) {
		err = state.Fail(state.ResultNotAttempted, "another machinemon-update is at work on it")
	}
	return unlock, err
}

// notUnderWay returns an error if a unit of the chain works or is about to. systemd would merge our start with a job that is under way, so that the request would
// wait for an unrelated attempt. A later unit that works would make the chain refuse our
// attempt, but only once it releases the target's lock.
func notUnderWay(ctx context.Context, conn *systemd.Conn, name string) error {
	units, err := conn.Units(ctx, unitsOf(name)...)
	if err != nil {
		return err
	}
	for _, u := range units {
		// A fetch that waits in auto-restart for the network has begun nothing.
		if u.Name == unit("fetch", name) && u.Sub == "auto-restart" {
			if err := conn.Stop(ctx, u.Name); err != nil {
				return err
			}
			if u, err = conn.Unit(ctx, u.Name); err != nil {
				return err
			}
		}
		if !u.Settled() {
			return state.Fail(state.ResultNotAttempted, "an attempt is under way already (%s)", u.Name)
		}
	}
	return nil
}

func unit(step, name string) string { return "machinemon-" + step + "@" + name + ".service" }

func deadline(name string) string { return "machinemon-deadline@" + name + ".timer" }

func path(step, name string) string {
	return strings.TrimSuffix(unit(step, name), "service") + "path"
}

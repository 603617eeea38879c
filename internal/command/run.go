package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/machinemon/machinemon-update/internal/fetch"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/swap"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// outcomeOf is one target in the JSON of apply, check and rollback.
type outcomeOf struct {
	Target string `json:"target"`
	Exit   int    `json:"exit"`
	state.Attempt
}

func (a *app) apply(args []string) error {
	if err := a.needRoot("apply"); err != nil {
		return err
	}
	return a.each(args, state.Apply)
}

func (a *app) check(args []string) error {
	if a.root {
		return a.each(args, state.Check)
	}
	return a.look(args)
}

func (a *app) rollback(args []string) error {
	if err := a.needRoot("rollback"); err != nil {
		return err
	}
	return a.each(args, state.GoBack)
}

// each runs one attempt after the other: a machine's daemons should not all
// restart at once.
func (a *app) each(args []string, verb state.Verb) error {
	names, err := a.choose(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	outcomes := []outcomeOf{}
	for _, name := range names {
		started := time.Now()
		at, err := a.attempt(ctx, name, verb)
		if err != nil && ctx.Err() != nil {
			fmt.Fprintf(a.err, "%s: detached, the update goes on (hint: journalctl -f -u 'machinemon-*@%s.service' follows it, machinemon-update status tells how it went)\n", name, name)
			a.exit = exitDetached
			return nil
		}
		if err != nil {
			at = state.Attempt{ID: at.ID, Result: state.Failed, Reason: err.Error()}
		}
		o := outcomeOf{name, at.Result.Exit(), at}
		if at.Result == state.Available {
			o.Exit = exitAvailable
		}
		a.worst(o.Exit)
		outcomes = append(outcomes, o)
		if !a.json {
			fmt.Fprintln(a.out, clean(summary(name, at, time.Since(started))))
		}
	}
	if a.json {
		return a.print(map[string]any{"targets": outcomes}, "")
	}
	return nil
}

func summary(name string, at state.Attempt, took time.Duration) string {
	s := name + ": " + outcome(at)
	switch at.Result {
	case state.Committed, state.Unproven:
		s += fmt.Sprintf(" (was %s) in %.1f s", or(at.From, "unknown"), took.Seconds())
	case state.Available:
		s += fmt.Sprintf(" (installed: %s)", or(at.From, "unknown"))
	case state.RolledBack, state.Interrupted:
		s += fmt.Sprintf(" (%s runs again)", or(at.From, "what ran before"))
	case state.RollbackFailed:
		s += " (hint: manual intervention; journalctl -u machinemon-rollback@" + name + ".service)"
	}
	return s
}

// attempt asks the chain for an attempt and follows it to its end.
func (a *app) attempt(ctx context.Context, name string, verb state.Verb) (state.Attempt, error) {
	at := state.Attempt{ID: state.NewAttempt(), Origin: state.Operator}
	not := func(reason string) (state.Attempt, error) {
		at.Result, at.Reason = state.NotAttempted, reason
		return at, nil
	}
	unlock, err := a.tree.LockOperator(name)
	if errors.Is(err, state.ErrLocked) {
		return not("another machinemon-update is at work on it")
	}
	if err != nil {
		return at, err
	}
	defer unlock()
	f := &follower{app: a, name: name, attempt: at.ID}
	conn, err := systemd.Connect(ctx, f.units()...)
	if err != nil {
		return at, err
	}
	defer conn.Close()
	f.conn = conn
	first := unit("fetch", name)
	if verb == state.GoBack {
		first = unit("swap", name)
		if j, err := a.tree.Journal(name); err != nil || j != nil {
			return not("a trial is open")
		}
	}
	// A job that is under way would swallow ours, and our request would wait
	// for an attempt that nobody asked for.
	if u, err := conn.Unit(ctx, first); err != nil {
		return at, err
	} else if !u.Settled() {
		return not("an attempt is under way already (" + first + ")")
	}
	if err := conn.ResetFailed(ctx, first); err != nil {
		return at, err
	}
	if err := a.tree.SetRequest(name, state.Request{Attempt: at.ID, Verb: verb}); err != nil {
		return at, err
	}
	if err := conn.Queue(ctx, first); err != nil {
		_, terr := a.tree.TakeRequest(name) // nobody will
		return at, errors.Join(err, terr)
	}
	return f.follow(ctx)
}

// look is `check` for those who may not start units: it reads the manifest
// itself and records nothing.
func (a *app) look(args []string) error {
	names, err := a.choose(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	outcomes := []outcomeOf{}
	for _, name := range names {
		at := a.lookAt(ctx, name)
		o := outcomeOf{name, at.Result.Exit(), at}
		if at.Result == state.Available {
			o.Exit = exitAvailable
		}
		a.worst(o.Exit)
		outcomes = append(outcomes, o)
		if !a.json {
			fmt.Fprintln(a.out, clean(summary(name, at, 0)))
		}
	}
	if a.json {
		return a.print(map[string]any{"targets": outcomes}, "")
	}
	return nil
}

func (a *app) lookAt(ctx context.Context, name string) state.Attempt {
	at := state.Attempt{Origin: state.Operator, Stage: string(state.Fetch), Time: time.Now().UTC()}
	t, err := a.targets.Load(name)
	if err == nil && t.Source.Type == "" {
		err = fmt.Errorf("cannot check %s: no source is configured (hint: set source.url in %s/%s.toml)", name, a.targets.Admin, name)
	}
	if err != nil {
		at.Result, at.Reason = state.Misconfigured, err.Error()
		return at
	}
	st, err := a.tree.Status(state.Swap, name)
	if err != nil {
		at.Result, at.Reason = state.Failed, err.Error()
		return at
	}
	at.From = swap.Installed(ctx, t, st)
	m, err := fetch.Look(ctx, t)
	if err != nil {
		at.Result, at.Reason = state.NotDownloaded, err.Error()
		return at
	}
	at.Version, at.Sequence, at.Result = m.Version, m.Sequence, state.Available
	if manifest.SameVersion(m.Version, at.From) {
		at.Result = state.Current
	}
	return at
}

func unit(step, name string) string { return "machinemon-" + step + "@" + name + ".service" }

func path(step, name string) string {
	return strings.TrimSuffix(unit(step, name), "service") + "path"
}

package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// hold keeps a target from each update, scheduled or requested, until unhold.
func (a *app) hold(names []string) error {
	return a.decide(names, func(_ string, s *state.Status) (string, error) {
		if s.Held == nil {
			s.Held = &state.Hold{Since: time.Now().UTC()}
		}
		return "held: nothing updates it until unhold", nil
	})
}

func (a *app) unhold(names []string) error {
	return a.decide(names, func(_ string, s *state.Status) (string, error) {
		if s.Held == nil {
			return "was not held", nil
		}
		s.Held = nil
		return "no longer held", nil
	})
}

// skip rejects the release that the last check found.
func (a *app) skip(names []string) error {
	return a.decide(names, func(name string, s *state.Status) (string, error) {
		f, err := a.tree.Status(state.RoleFetch, name)
		if err != nil {
			return "", err
		}
		if f.Offer == nil || f.Offer.Archive == "" {
			return "", fmt.Errorf("cannot skip the release of %s: no check has found one (hint: sudo machinemon-update check %s)", name, name)
		}
		s.Reject(state.Rejection{Version: f.Offer.Version, Sequence: f.Offer.Sequence, Fingerprint: f.Offer.Fingerprint,
			Archive: f.Offer.Archive, Time: time.Now().UTC(), Reason: "the operator skips it"})
		says := f.Offer.Version + " is skipped until there is another release or unskip"
		if s.Installed != nil && s.Installed.Archive == f.Offer.Archive {
			says += fmt.Sprintf("; it is installed, and stays (hint: sudo machinemon-update rollback %s goes back)", name)
		}
		return says, nil
	})
}

// unskip removes each rejection of the target.
func (a *app) unskip(names []string) error {
	return a.decide(names, func(_ string, s *state.Status) (string, error) {
		n := len(s.Rejected)
		s.Rejected = nil
		return fmt.Sprintf("releases that may be tried again: %d", n), nil
	})
}

// decide changes the swapper's status of the targets, under their locks.
func (a *app) decide(names []string, change func(name string, s *state.Status) (string, error)) error {
	return a.sayOfEach(names, func(name string) (string, error) { return a.decideOne(name, change) }, a.inform)
}

// informAll makes monitoring learn what the operator has decided.
func informAll(names []string) error {
	ctx := context.Background()
	conn, err := systemd.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, name := range names {
		err = errors.Join(err, conn.Queue(ctx, unit("inform", name)))
	}
	return err
}

// sayOfEach calls do for each target and prints what it returns, and then calls end unless
// that is nil, with the names of all of them. The first error of do ends the verb.
func (a *app) sayOfEach(names []string, do func(name string) (line string, err error), end func(names []string) error) error {
	names, err := a.choose(names)
	if err != nil {
		return err
	}
	said, text := map[string]string{}, ""
	for _, name := range names {
		if said[name], err = do(name); err != nil {
			return err
		}
		text += name + ": " + said[name] + "\n"
	}
	err = a.print(map[string]any{"targets": said}, text)
	if end != nil {
		err = errors.Join(err, end(names))
	}
	return err
}

func (a *app) decideOne(name string, change func(string, *state.Status) (string, error)) (line string, err error) {
	if !target.ValidName(name) {
		return "", cli.Usagef("cannot use target %q: that is no name for a target", name)
	}
	release, err := a.tree.Lock(name)
	if err != nil {
		return "", err
	}
	defer release()
	if err := a.tree.MakeSwapDir(name); err != nil {
		return "", err
	}
	var failed error
	err = a.tree.Update(state.RoleSwap, name, func(s *state.Status) { line, failed = change(name, s) })
	return line, errors.Join(failed, err)
}

// enable lets scheduled runs install. The target file may be newer than the last
// daemon-reload, so that its timer does not exist before the next one.
func (a *app) enable(names []string) error {
	return a.sayOfEach(names, func(name string) (string, error) { return a.setAutoUpdate(name, "enable") }, a.changed)
}

func (a *app) disable(names []string) error {
	return a.sayOfEach(names, func(name string) (string, error) { return a.setAutoUpdate(name, "disable") }, a.changed)
}

// changed makes systemd and monitoring learn that target files have changed.
func (a *app) changed(names []string) error {
	err := a.reload()
	if a.inform != nil {
		err = errors.Join(err, a.inform(names))
	}
	return err
}

// setAutoUpdate writes the operator's choice to a drop-in, and loads the target to check
// that the choice has an effect. verb is "enable" or "disable".
func (a *app) setAutoUpdate(name, verb string) (string, error) {
	on := verb == "enable"
	t, err := a.targets.Load(name)
	if err != nil {
		return "", err
	}
	if on && t.Source.Type == "" {
		return "", cli.Usagef("cannot enable %s: no source is configured (hint: set source.url in %s/%s.toml)", name, a.targets.Admin, name)
	}
	if on && t.Source.From != nil {
		m := a.see(context.Background())
		if m != nil {
			defer m.Close()
		}
		if err := resolve(context.Background(), m, t); err != nil {
			return "", err
		}
		// This comes before the drop-in, so that an enabled target has a source.
		_, err := a.decideOne(name, func(_ string, s *state.Status) (string, error) {
			s.Use(t.Source.From.String(), t.Source.URL, t.Source.InsecureSkipTLS)
			return "", nil
		})
		if err != nil {
			return "", err
		}
	}
	dir := filepath.Join(a.targets.Root, a.targets.Admin, name+".toml.d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot %s %s: %w", verb, name, err)
	}
	text := fmt.Sprintf("# Written by `machinemon-update %s`.\nauto_update_enabled = %t\n", verb, on)
	if err := durable.WriteFile(filepath.Join(dir, target.AutoUpdate), []byte(text), 0o644); err != nil {
		return "", err
	}
	if t, err = a.targets.Load(name); err != nil {
		return "", err
	}
	if t.AutoUpdateEnabled != on {
		return "", fmt.Errorf("cannot %s %s: a later drop-in in %s says otherwise", verb, name, dir)
	}
	if on {
		return "scheduled runs install what they find, every " + every(t.CheckEvery), nil
	}
	return "scheduled runs only report what is available", nil
}

// short returns a time without the units that are zero: "1h" and not "1h0m0s".
func short(d time.Duration) string {
	s := d.String()
	for _, end := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, end) {
			s = s[:len(s)-len("0s")]
		}
	}
	return s
}

// every returns an interval as it follows the word "every".
func every(d time.Duration) string {
	switch d {
	case time.Minute:
		return "minute"
	case time.Hour:
		return "hour"
	case 24 * time.Hour:
		return "day"
	}
	return short(d)
}

// reloadSystemd makes systemd read the targets again and start their timers and path
// units.
func reloadSystemd() error {
	ctx := context.Background()
	conn, err := systemd.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Reload(ctx); err != nil {
		return err
	}
	return errors.Join(conn.Start(ctx, "paths.target"), conn.Start(ctx, "timers.target"))
}

package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

const (
	socket  = "machinemon-checkin-relay.socket"
	service = "machinemon-checkin-relay.service"
	// address is where the socket listens.
	address = "http://127.0.0.1:478"
)

// A setup puts the relay between an agent and its server.
type setup struct {
	say    func(string)
	target *target.Target // without the drop-in
	config string         // the agent's configuration
	former string         // the agent's server
	relay  []byte         // the relay's new configuration; nil if the present one stays
	drop   string         // the drop-in that makes the target find the server in it
	reads  bool           // whether the target does so already

	undo []func(context.Context) error // of the steps that have begun
}

// Setup writes the relay's configuration from that of the agent, makes the target read
// the server there, starts the relay's socket, and makes the agent check in at it. If a
// step fails, or if the agent's next check-in does not pass, all steps are undone. A setup
// that was interrupted is completed, and one that no longer fits the agent's server is
// repeated.
func Setup(ctx context.Context, say func(string)) error {
	const failed = "cannot set the relay up"
	if os.Geteuid() != 0 {
		return errors.New(failed + ": only root can (hint: sudo machinemon-checkin-relay --setup)")
	}
	s := &setup{say: say}
	err := s.run(ctx)
	switch undone := s.takeBack(context.WithoutCancel(ctx), err); { // also after Ctrl-C
	case err == nil:
		return nil
	case undone != nil:
		return fmt.Errorf("%s, nor undo that (%w): %w", failed, undone, err)
	case len(s.undo) > 0:
		return fmt.Errorf("%s, and undid its steps: %w", failed, err)
	default:
		return fmt.Errorf("%s: %w", failed, err)
	}
}

// takeBack undoes the steps if err is not nil, the last one first.
func (s *setup) takeBack(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var failed []string
	for _, step := range slices.Backward(s.undo) {
		if err := step(ctx); err != nil {
			failed = append(failed, err.Error())
		}
	}
	if failed == nil {
		return nil
	}
	return errors.New(strings.Join(failed, "; "))
}

// step does a step. Its undo runs also if the step fails, since that may be halfway.
func (s *setup) step(ctx context.Context, do, undo func(context.Context) error) error {
	s.undo = append(s.undo, undo)
	return do(ctx)
}

func (s *setup) run(ctx context.Context) error {
	done, err := s.look(ctx)
	if err != nil {
		return err
	}
	if done {
		s.say("the relay is set up already: " + ConfigFile)
		return s.open(ctx)
	}
	if s.relay != nil {
		if err := s.write(ctx, ConfigFile, s.relay); err != nil {
			return err
		}
	}
	if err := s.open(ctx); err != nil {
		return err
	}
	if err := s.step(ctx, s.lead(address), s.lead(s.former)); err != nil {
		return err
	}
	if !s.reads {
		text := fmt.Sprintf("# Written by `machinemon-checkin-relay --setup`: the agent's own configuration names the relay.\n"+
			"[source.url_from]\nfile = %q\nkey = \"server_url\"\nappend = %q\n", ConfigFile, s.target.Source.From.Append)
		if err := os.MkdirAll(filepath.Dir(s.drop), 0o755); err != nil {
			return err
		}
		if err := s.write(ctx, s.drop, []byte(text)); err != nil {
			return err
		}
	}
	if err := s.checksIn(ctx); err != nil {
		return err
	}
	s.say("the agent checks in through the relay; " + ConfigFile + " now has its server_url")
	if line := check(ctx, s.target.Name); line != "" {
		s.say(line)
	}
	if !s.target.AutoUpdateEnabled {
		s.say("updates are not automatic yet (hint: sudo machinemon-update enable " + s.target.Name + ")")
	}
	return nil
}

// write replaces a file of the configuration, and ends a relay that has read the former one.
func (s *setup) write(ctx context.Context, file string, data []byte) error {
	former, missing := os.ReadFile(file)
	if missing != nil && !errors.Is(missing, fs.ErrNotExist) {
		return missing
	}
	put := func(ctx context.Context, data []byte) error {
		if err := durable.WriteFile(file, data, 0o644); err != nil {
			return err
		}
		return run(ctx, "systemctl", "stop", service)
	}
	return s.step(ctx, func(ctx context.Context) error { return put(ctx, data) }, func(ctx context.Context) error {
		if missing == nil {
			return put(ctx, former)
		}
		if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// open enables and starts the relay's socket.
func (s *setup) open(ctx context.Context) error {
	enable := func(ctx context.Context) error { return run(ctx, "systemctl", "enable", "--quiet", "--now", socket) }
	if run(ctx, "systemctl", "is-enabled", "--quiet", socket) == nil {
		return enable(ctx)
	}
	return s.step(ctx, enable, func(ctx context.Context) error {
		return run(ctx, "systemctl", "disable", "--quiet", "--now", socket)
	})
}

// checksIn waits until the probes of the target pass, which wait for a check-in.
func (s *setup) checksIn(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for tick := time.Tick(time.Second); ; {
		if err = run(ctx, command, "probe", s.target.Name); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the agent does not check in through the relay: %w (hint: journalctl -u machinemon-checkin-relay -u %s)", err, s.target.Unit)
		case <-tick:
		}
	}
}

func run(ctx context.Context, argv ...string) error {
	return output(exec.CommandContext(ctx, argv[0], argv[1:]...))
}

// check makes a check, from which on the new source counts for scheduled runs. It returns
// why the source has no release for this machine, if that is so: there may be none yet.
func check(ctx context.Context, target string) string {
	said, err := exec.CommandContext(ctx, command, "check", target).CombinedOutput()
	const updateAvailable = 3
	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil, ok && exit.ExitCode() == updateAvailable:
		return ""
	case !ok:
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	return state.Line(lines[len(lines)-1]) // those before are progress
}

// output runs a command. Its error has what the command said.
func output(cmd *exec.Cmd) error {
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, state.Line(string(said)))
	}
	return nil
}

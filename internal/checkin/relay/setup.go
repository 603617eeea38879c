package relay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

const (
	socket = "machinemon-checkin-relay.socket"
	// address is where the socket listens.
	address = "http://127.0.0.1:478"
)

// A setup puts the relay between an agent and its server.
type setup struct {
	say    func(string)
	target *target.Target
	config string // the agent's configuration
	former string // the agent's server, as its configuration had it
	drop   string // the drop-in that gives the target the relay's configuration
}

// Setup writes the relay's configuration from that of the agent, makes the target read
// the server there, starts the relay's socket, and makes the agent check in at it. If the
// agent's next check-in does not pass, the agent gets its server back. An earlier setup
// that was interrupted is completed.
func Setup(ctx context.Context, say func(string)) error {
	if os.Geteuid() != 0 {
		return errors.New("cannot set the relay up: only root can (hint: sudo machinemon-checkin-relay --setup)")
	}
	s := &setup{say: say}
	if err := s.run(ctx); err != nil {
		return fmt.Errorf("cannot set the relay up: %w", err)
	}
	return nil
}

func (s *setup) run(ctx context.Context) error {
	done, err := s.look(ctx)
	if err != nil {
		return err
	}
	if err := run(ctx, "systemctl", "enable", "--quiet", "--now", socket); done || err != nil {
		return err
	}
	if err := s.switchTo(ctx, address); err != nil {
		return err
	}
	text := fmt.Sprintf("# Written by `machinemon-checkin-relay --setup`: the agent's own configuration names the relay.\n"+
		"[source.url_from]\nfile = %q\nkey = \"server_url\"\nappend = %q\n", ConfigFile, s.target.Source.From.Append)
	if err := os.MkdirAll(filepath.Dir(s.drop), 0o755); err != nil {
		return err
	}
	if err := durable.WriteFile(s.drop, []byte(text), 0o644); err != nil {
		return err
	}
	if err := s.checksIn(ctx); err != nil {
		undo := context.WithoutCancel(ctx) // also after Ctrl-C
		return errors.Join(err, os.Remove(s.drop), s.switchTo(undo, s.former), run(undo, "systemctl", "disable", "--quiet", "--now", socket))
	}
	s.say("the agent checks in through the relay; " + ConfigFile + " now has its server_url")
	// The new source counts for scheduled runs from this check on. It may have no release yet.
	if err := run(ctx, command, "check", s.target.Name); err != nil {
		s.say(err.Error())
	}
	if !s.target.AutoUpdateEnabled {
		s.say("updates are not automatic yet (hint: machinemon-update enable " + s.target.Name + ")")
	}
	return nil
}

// look finds out the agent's configuration and its server, and writes the relay's
// configuration. done says that the agent uses the relay already.
func (s *setup) look(ctx context.Context) (done bool, err error) {
	c := file{Target: "agent"}
	asWritten := func() (*file, error) { return &c, nil }
	if _, err := checkin.LoadConfig(ConfigFile, keys, &c, asWritten); err != nil {
		return false, err
	}
	data, err := os.ReadFile(ConfigFile)
	if err != nil {
		return false, err
	}
	if s.target, err = target.DefaultDirs.Load(c.Target); err != nil {
		return false, err
	}
	t := s.target
	s.drop = filepath.Join(target.DefaultDirs.Admin, t.Name+".toml.d", "relay.toml")
	switch from := t.Source.From; {
	case from == nil:
		return false, fmt.Errorf("the server of %s is not read from the agent's configuration (hint: set server_url in %s, see machinemon-checkin-relay(8))", t.Name, ConfigFile)
	case from.File == ConfigFile:
		s.say("the relay is set up already: " + ConfigFile)
		return true, nil
	}
	conn, err := systemd.Connect(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	u, err := conn.Unit(ctx, t.Unit)
	if err != nil {
		return false, err
	}
	err = t.Resolve(target.Command{Args: u.Command, User: u.User, Dynamic: u.DynamicUser})
	s.config, s.former = t.Source.Read, strings.TrimSuffix(t.Source.URL, t.Source.From.Append)
	switch {
	case c.ServerURL != "" && (err != nil || s.former == address): // by an earlier setup
		s.former = c.ServerURL
		return false, nil
	case c.ServerURL != "":
		return false, nil
	case err != nil:
		return false, err
	case s.former == address:
		return false, fmt.Errorf("the agent checks in at the relay already, and its server is not known (hint: set server_url in %s)", ConfigFile)
	}
	more := fmt.Sprintf("\n# Written by `machinemon-checkin-relay --setup`, from %s.\nserver_url = %q\n", s.config, s.former)
	if t.Source.InsecureSkipTLS {
		more += "insecure_skip_tls = true\n"
	} else if t.Source.CAFile != "" && c.CAFile == "" {
		more += fmt.Sprintf("ca_file = %q\n", t.Source.CAFile)
	}
	return false, durable.WriteFile(ConfigFile, append(data, more...), 0o644)
}

// switchTo makes the agent check in at a server. The agent changes its own configuration,
// with the rights of the file's owner.
func (s *setup) switchTo(ctx context.Context, server string) error {
	info, err := os.Stat(s.config)
	if err != nil {
		return err
	}
	owner, err := user.LookupId(strconv.FormatUint(uint64(info.Sys().(*syscall.Stat_t).Uid), 10))
	if err != nil {
		return fmt.Errorf("cannot find the owner of %s: %w", s.config, err)
	}
	uid, uerr := strconv.ParseUint(owner.Uid, 10, 32)
	gid, gerr := strconv.ParseUint(owner.Gid, 10, 32) // the file's group may be root's
	if err := errors.Join(uerr, gerr); err != nil {
		return fmt.Errorf("cannot find the owner of %s: %w", s.config, err)
	}
	cmd := exec.CommandContext(ctx, s.target.Health.Main, "--config", s.config, "--server", server, "--no-daemon")
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	// In a session of its own, the user's processes cannot type into root's terminal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, Setsid: true}
	if err := output(cmd); err != nil {
		return err
	}
	return run(ctx, "systemctl", "restart", s.target.Unit)
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
			return fmt.Errorf("the agent does not check in through the relay, and has its server back: %w (hint: journalctl -u machinemon-checkin-relay -u %s)", err, s.target.Unit)
		case <-tick:
		}
	}
}

func run(ctx context.Context, argv ...string) error {
	return output(exec.CommandContext(ctx, argv[0], argv[1:]...))
}

// updateAvailable is the exit status of "machinemon-update check" if there is an update.
const updateAvailable = 3

// output runs a command. Its error has what the command said.
func output(cmd *exec.Cmd) error {
	said, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == updateAvailable && cmd.Path == command {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, state.Line(string(said)))
	}
	return nil
}

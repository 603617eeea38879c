package relay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/pelletier/go-toml/v2"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// look finds out the agent's configuration and its server, and whether the relay's
// configuration and the target must change. done says that nothing must.
func (s *setup) look(ctx context.Context) (done bool, err error) {
	c, data, err := written()
	if err != nil {
		return false, err
	}
	s.drop = filepath.Join(target.DefaultDirs.Admin, c.Target+".toml.d", "relay.toml")
	known, err := target.DefaultDirs.Names()
	if err != nil {
		return false, err
	}
	if !slices.Contains(known, c.Target) {
		return false, fmt.Errorf("there is no target %s (hint: sudo apt install machinemon-update-agent brings the agent's; target in %s names another)", c.Target, ConfigFile)
	}
	now, err := target.DefaultDirs.Load(c.Target)
	if err != nil {
		return false, err
	}
	agents := target.DefaultDirs
	agents.Without = s.drop
	if s.target, err = agents.Load(c.Target); err != nil {
		return false, err
	}
	s.reads = now.Source.From != nil && now.Source.From.File == ConfigFile
	switch from := s.target.Source.From; {
	case s.target.Unit == "" || len(s.target.Also) > 0 || s.target.Template():
		return false, fmt.Errorf("target %s has not exactly one unit, so there is no agent to set up", c.Target)
	case from == nil:
		return false, fmt.Errorf("the server of %s is not read from the agent's configuration (hint: set server_url in %s, see machinemon-checkin-relay(8))", c.Target, ConfigFile)
	case from.File == ConfigFile: // by hand, and with it all else
		return true, nil
	}
	server, insecure, err := s.find(ctx)
	if err != nil {
		return false, err
	}
	s.config = s.target.Source.Read
	if server == address {
		s.former = c.ServerURL
		if s.former == "" {
			return false, fmt.Errorf("the agent checks in at the relay already, and its server is not known (hint: set server_url in %s)", ConfigFile)
		}
		return s.reads, nil
	}
	if err := s.target.Derive(server+s.target.Source.From.Append, insecure); err != nil {
		return false, err
	}
	s.former = server
	s.relay, err = renewed(data, s.config, server, insecure, s.target.Source.CAFile)
	return false, err
}

// written returns the relay's configuration, decoded and as it is.
func written() (*file, []byte, error) {
	c := &file{Target: "agent"}
	if _, err := checkin.LoadConfig(ConfigFile, keys, c, func() (*file, error) { return c, nil }); err != nil {
		return nil, nil, err
	}
	data, err := os.ReadFile(ConfigFile)
	return c, data, err
}

// find reads the agent's server from the agent's configuration.
func (s *setup) find(ctx context.Context) (server string, insecure bool, err error) {
	conn, err := systemd.Connect(ctx)
	if err != nil {
		return "", false, err
	}
	defer conn.Close()
	u, err := conn.Unit(ctx, s.target.Unit)
	if err != nil {
		return "", false, err
	}
	return s.target.Find(target.Command{Args: u.Command, User: u.User, Dynamic: u.DynamicUser})
}

// ours matches what an earlier setup has written into the relay's configuration.
var ours = regexp.MustCompile("(?m)\n?^# Written by `machinemon-checkin-relay --setup`, from .*\nserver_url = .*\n(?:(?:insecure_skip_tls|ca_file) = .*\n)?")

// renewed returns the relay's configuration, whose text is data, with the agent's server;
// nil if it has that already. What an earlier setup has written is replaced, and what the
// operator has written stays.
func renewed(data []byte, from, server string, insecure bool, caFile string) ([]byte, error) {
	rest := ours.ReplaceAll(data, nil)
	var theirs map[string]any
	if err := toml.Unmarshal(rest, &theirs); err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", ConfigFile, err)
	}
	if other, there := theirs["server_url"].(string); there {
		if strings.TrimRight(other, "/") == server {
			return nil, nil
		}
		return nil, fmt.Errorf("the agent checks in at %s, and %s has server_url = %q (hint: remove that line, for the agent's server; or give the agent the other one first: machinemon-client --server)", server, ConfigFile, other)
	}
	more := fmt.Sprintf("\n# Written by `machinemon-checkin-relay --setup`, from %s.\nserver_url = %q\n", from, server)
	_, skip := theirs["insecure_skip_tls"]
	_, ca := theirs["ca_file"]
	if insecure && !skip {
		more += "insecure_skip_tls = true\n"
	} else if caFile != "" && !ca {
		more += fmt.Sprintf("ca_file = %q\n", caFile)
	}
	return append(rest, more...), nil
}

// lead returns a step that makes the agent check in at a server. The agent changes its own
// configuration, with the rights of the file's owner.
func (s *setup) lead(server string) func(context.Context) error {
	return func(ctx context.Context) error {
		uid, gid, err := ownerOf(s.config)
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, s.target.Health.Main, "--config", s.config, "--server", server, "--no-daemon")
		cmd.Dir = "/"
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
		// In a session of its own, the user's processes cannot type into root's terminal.
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}, Setsid: true}
		if err := output(cmd); err != nil {
			return err
		}
		return run(ctx, "systemctl", "restart", s.target.Unit)
	}
}

// ownerOf returns the owner of a file and the owner's group; the file's may be root's. A user
// who makes a link, also of a directory above the file, does not get root's rights for the
// agent.
func ownerOf(file string) (uid, gid uint32, err error) {
	info, err := os.Lstat(file)
	if err != nil {
		return 0, 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, 0, fmt.Errorf("%s is no longer a regular file", file)
	}
	id := info.Sys().(*syscall.Stat_t).Uid
	if id == 0 {
		if err := target.CheckRootOnly(file); err != nil {
			return 0, 0, fmt.Errorf("%s is root's, and others can replace it: %w (hint: the file must belong to the user in whose directory it is)", file, err)
		}
	}
	owner, err := user.LookupId(strconv.FormatUint(uint64(id), 10))
	if err != nil {
		return 0, 0, fmt.Errorf("cannot find the owner of %s: %w", file, err)
	}
	u, uerr := strconv.ParseUint(owner.Uid, 10, 32)
	g, gerr := strconv.ParseUint(owner.Gid, 10, 32)
	if err := errors.Join(uerr, gerr); err != nil {
		return 0, 0, fmt.Errorf("cannot find the owner of %s: %w", file, err)
	}
	return uint32(u), uint32(g), nil
}

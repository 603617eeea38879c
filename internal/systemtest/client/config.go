package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"
)

type config struct {
	ClientID        string          `toml:"client_id"`
	ServerURL       string          `toml:"server_url"`
	Password        string          `toml:"password"`
	CheckInInterval int             `toml:"check_in_interval"`
	InsecureSkipTLS bool            `toml:"insecure_skip_tls"`
	Processes       []processConfig `toml:"process,omitempty"`
	Checks          []checkConfig   `toml:"check,omitempty"`
}

type processConfig struct {
	FriendlyName string `toml:"friendly_name"`
	MatchPattern string `toml:"match_pattern"`
	MatchType    string `toml:"match_type"`
}

type checkConfig struct {
	FriendlyName string `toml:"friendly_name"`
	Type         string `toml:"type"`
	ScriptPath   string `toml:"script_path,omitempty"`
	RunAsUser    string `toml:"run_as_user,omitempty"`
}

// defaultPath returns the configuration in the home of the user, also of the one that
// runs sudo, or in /etc without a home, as for a service without User=.
func defaultPath() string {
	home := os.Getenv("HOME")
	if u, err := user.Lookup(os.Getenv("SUDO_USER")); err == nil {
		home = u.HomeDir
	}
	if home == "" {
		return "/etc/machinemon/client.toml"
	}
	return filepath.Join(home, ".config/machinemon/client.toml")
}

// load reads the configuration. Keys that are defined twice are an error, and unknown
// ones are none, as in TOML. A file that is missing is empty.
func load(path string) (*config, error) {
	c := &config{CheckInInterval: 120}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	} else if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	if err := toml.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("parse config: %w", err)
	}
	return c, nil
}

// save writes the configuration in place, without its comments. Lists that were emptied
// stay, as empty arrays in front of all tables.
func (c *config) save(path string) error {
	data, err := toml.Marshal(c)
	if err != nil {
		return err
	}
	if c.Checks != nil && len(c.Checks) == 0 {
		data = append([]byte("check = []\n"), data...)
	}
	if c.Processes != nil && len(c.Processes) == 0 {
		data = append([]byte("process = []\n"), data...)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// installService writes the unit for the configuration.
func installService(path string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	unit := "[Unit]\nDescription=MachineMon Client\nAfter=network-online.target\nWants=network-online.target\n\n" +
		"[Service]\nType=simple\nExecStart=" + program + " --config " + path + "\nRestart=always\nRestartSec=10\n\n" +
		"[Install]\nWantedBy=multi-user.target\n"
	if err := os.WriteFile("/etc/systemd/system/machinemon-client.service", []byte(unit), 0o644); err != nil {
		return err
	}
	return exec.Command("systemctl", "daemon-reload").Run()
}

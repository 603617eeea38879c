package command

import (
	"path/filepath"
	"strings"

	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/state"
)

// configCheck is what check-config says of one target or file, as --json prints it.
type configCheck struct {
	Name  string `json:"name"` // as the operator wrote it
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// checkConfig checks configuration and touches nothing else. An argument with a slash or
// the end ".toml" is a file, which need not be in its place; others are targets. Of a target
// it also checks what is on this machine already, as an attempt does. Without arguments it
// checks all targets.
func (a *app) checkConfig(names []string) error {
	if len(names) == 0 {
		all, err := a.targets.Names()
		if err != nil {
			return err
		}
		names = all
		a.warnOfUnread()
	}
	checks, text := []configCheck{}, ""
	for _, name := range names {
		c := configCheck{Name: state.Printable(name), OK: true}
		if err := a.configError(name); err != nil {
			c.OK, c.Error = false, err.Error()
			a.worst(exitOf(err))
			text += c.Error + "\n"
		} else {
			text += c.Name + ": ok\n"
		}
		checks = append(checks, c)
	}
	return a.print(checks, text)
}

func (a *app) configError(name string) error {
	if strings.Contains(name, "/") || strings.HasSuffix(name, ".toml") {
		path, err := filepath.Abs(name)
		if err != nil {
			return err
		}
		if err := a.targets.CheckFile(path); err != nil || filepath.Dir(path) != filepath.Join(a.targets.Root, a.targets.Admin) {
			return err
		}
		name = strings.TrimSuffix(filepath.Base(path), ".toml") // it is in its place
	}
	t, err := a.targets.Load(name)
	if err != nil {
		return err
	}
	a.warnAbout(name, t.Unnotified)
	others, _ := installed.Others(a.tree, a.targets, name) // their own checks report their errors
	return t.CheckExisting(others)
}

package command

import (
	"context"
	"fmt"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// directiveOf is the JSON of directive.
type directiveOf struct {
	Target    string `json:"target"`
	Announced string `json:"announced,omitempty"` // by the check-in response
	Installed string `json:"installed"`           // "unknown" if neither the record nor the program says it
	Dropped   bool   `json:"dropped"`             // whether a directive is there now, from this call or an earlier one
}

// directive writes a directive if the check-in response on standard input announces
// another version than the installed one.
func (a *app) directive(args []string) error {
	name := args[0]
	t, err := a.load(name)
	if err != nil {
		return err
	}
	d := directiveOf{Target: name, Installed: "unknown"}
	if d.Announced, err = checkin.Announced(a.in); err != nil {
		return fmt.Errorf(`%w (hint: standard input must be the server's answer to a check-in, such as {"update_version": "1.9"})`, err)
	}
	st, err := a.tree.Status(state.RoleSwap, name)
	if err != nil {
		return err
	}
	if v := a.installedVersion(context.Background(), t, st); v != "" {
		d.Installed = v
	}
	switch {
	case d.Announced == "":
		return a.print(d, name+": no directive: the response announces no version\n")
	case manifest.SameVersion(d.Announced, d.Installed):
		return a.print(d, fmt.Sprintf("%s: no directive: %s is installed already\n", name, d.Announced))
	case t.Source.Type == "":
		return cli.Usagef("cannot follow the directive to %s: no source is configured (hint: set source.url in %s/%s.toml)", name, a.targets.Admin, name)
	}
	fresh, err := a.tree.DropDirective(name)
	if err != nil {
		return err
	}
	d.Dropped = true
	text := fmt.Sprintf("%s: directive: %s is announced, %s is installed", name, d.Announced, d.Installed)
	if !fresh {
		text += "; an earlier directive waits already"
	}
	if err := a.print(d, text+"\n"); err != nil {
		return err
	}
	if err := a.watched(name); err != nil { // systemd sees the directive once that is corrected
		fmt.Fprintf(a.err, "%s: %s\n", name, state.Printable(err.Error()))
	}
	return nil
}

// watched returns an error that says why systemd does not see a directive now.
func (a *app) watched(name string) error {
	if a.machine == nil {
		return nil // systemd sees the directive when it starts
	}
	ctx := context.Background()
	m, err := a.machine(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	u, err := m.Unit(ctx, path("directive", name))
	if err != nil || u.Active == "active" {
		return err
	}
	return fmt.Errorf("the directive is not seen yet: %s is %s, %s (hint: sudo systemctl daemon-reload, then sudo systemctl start paths.target)", u.Name, u.Load, u)
}

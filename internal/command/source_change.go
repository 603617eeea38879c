package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/units"
)

// sourceChanged returns how the file of source.url_from differs from the source that
// scheduled runs use, or "". It returns "" for users other than root: the file may
// contain passwords.
func (a *app) sourceChanged(ctx context.Context, m machine, t *target.Target, st *state.Status) string {
	if !a.root {
		return ""
	}
	uses := "no source is used yet"
	if st.Source != nil {
		uses = "scheduled runs use " + source(st.Source.URL, st.Source.InsecureSkipTLS)
	}
	if err := resolve(ctx, m, t); err != nil {
		return uses + ": " + strings.TrimPrefix(err.Error(), "cannot use target "+t.Name+": ")
	}
	if st.Uses(t.Source.From.String(), t.Source.URL, t.Source.InsecureSkipTLS) {
		return ""
	}
	return fmt.Sprintf("%s: %s now says %s (hint: sudo machinemon-update check %s makes them use it)",
		uses, t.Source.Read, source(t.Source.URL, t.Source.InsecureSkipTLS), t.Name)
}

// resolve completes a target's source from the program's configuration. m is nil without
// systemd; then the unit's command, which may name the file, is not known.
func resolve(ctx context.Context, m machine, t *target.Target) error {
	if m == nil {
		return t.Resolve(target.Command{})
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	u, err := units.First(ctx, m, t)
	if err != nil {
		return err
	}
	return t.Resolve(target.Command{Args: u.Command, User: u.User, Dynamic: u.DynamicUser})
}

// source returns the source of releases in words.
func source(url string, insecure bool) string {
	if insecure {
		return url + " with any certificate"
	}
	return url
}

package command

import (
	"fmt"
	"strings"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// sourceChanged returns how the file of source.url_from differs from the source that
// scheduled runs use, or "". It returns "" for users other than root: the file may
// contain passwords.
func (a *app) sourceChanged(t *target.Target, st *state.Status) string {
	if !a.root {
		return ""
	}
	uses := "no source is used yet"
	if st.Source != nil {
		uses = "scheduled runs use " + source(st.Source.URL, st.Source.InsecureSkipTLS)
	}
	if err := t.Resolve(); err != nil {
		return uses + ": " + strings.TrimPrefix(err.Error(), "cannot use target "+t.Name+": ")
	}
	if st.Uses(t.Source.From.String(), t.Source.URL, t.Source.InsecureSkipTLS) {
		return ""
	}
	return fmt.Sprintf("%s: %s now says %s (hint: machinemon-update check %s makes them use it)",
		uses, t.Source.From.File, source(t.Source.URL, t.Source.InsecureSkipTLS), t.Name)
}

// source returns the source of releases in words.
func source(url string, insecure bool) string {
	if insecure {
		return url + " with any certificate"
	}
	return url
}

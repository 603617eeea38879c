package command

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/state"
)

// print prints v as JSON with --json, else text. Both must say the same.
func (a *app) print(v any, text string) error {
	if !a.json {
		_, err := io.WriteString(a.out, text)
		return err
	}
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.out, state.EscapeJSON(string(data)))
	return err
}

// warnAbout prints a warning about a target, unless it is "".
func (a *app) warnAbout(name, warning string) {
	if warning != "" {
		fmt.Fprintf(a.err, "%s: warning: %s\n", name, state.Printable(warning))
	}
}

// warnOfUnread prints what looks like a target file and is none.
func (a *app) warnOfUnread() {
	for _, line := range a.targets.Unread() {
		fmt.Fprintf(a.err, "machinemon-update: warning: %s\n", state.Printable(line))
	}
}

// row is a row of a table, with notes on separate lines below: they would not fit beside
// the cells on 80 columns.
type row struct{ cells, notes []string }

func (r *row) note(s string) {
	if s != "" {
		r.notes = append(r.notes, s)
	}
}

// aftermath adds the notes that follow an attempt's reason.
func (r *row) aftermath(name string, at state.Attempt, rejected []string) {
	if at.Unhealthy != "" {
		r.note(at.Aftermath())
	}
	if !slices.Contains(rejected, at.Rejected) {
		at.Rejected = ""
	}
	for _, line := range below(name, at) {
		r.note(line)
	}
}

func table(rows []row) string {
	var cells [][]string
	for _, r := range rows {
		cells = append(cells, r.cells)
	}
	var b strings.Builder
	for i, line := range slices.Collect(strings.Lines(cli.Table(cells))) {
		b.WriteString(line)
		for _, n := range rows[i].notes {
			fmt.Fprintf(&b, "  %s\n", state.Printable(n))
		}
	}
	return b.String()
}

package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/swap"
)

// targetStatus is one target in `status --json`.
type targetStatus struct {
	Target      string         `json:"target"`
	Description string         `json:"description,omitempty"`
	Unit        string         `json:"unit,omitempty"`
	Installed   string         `json:"installed"` // "unknown" when neither record nor program tells
	Available   string         `json:"available,omitempty"`
	Checked     *time.Time     `json:"checked,omitempty"`
	Unsigned    bool           `json:"unsigned"`
	Previous    string         `json:"previous,omitempty"` // what `rollback` would go back to
	Rejected    []string       `json:"rejected,omitempty"` // versions
	Trial       string         `json:"trial,omitempty"`    // the version on trial
	Last        *state.Attempt `json:"last,omitempty"`
	Error       string         `json:"error,omitempty"`
}

func (a *app) status(args []string) error {
	names, err := a.choose(args)
	if err != nil {
		return err
	}
	all := []targetStatus{}
	for _, n := range names {
		s := a.statusOf(n)
		if s.Error != "" {
			a.worst(exitUsage)
		}
		all = append(all, s)
	}
	var b strings.Builder
	if len(all) == 0 {
		fmt.Fprintf(&b, "no targets: no file in %s or %s\n", a.targets.Admin, a.targets.Vendor)
	} else {
		rows := [][]string{{"TARGET", "INSTALLED", "AVAILABLE", "TRUST", "LAST ATTEMPT", "RESULT"}}
		for _, s := range all {
			rows = append(rows, s.row())
		}
		table(&b, rows)
	}
	return a.print(map[string]any{"targets": all}, b.String())
}

func (a *app) statusOf(name string) targetStatus {
	s := targetStatus{Target: name, Installed: "unknown"}
	t, err := a.targets.Load(name)
	if err != nil {
		s.Error = err.Error()
		return s
	}
	s.Description, s.Unit = t.Description, t.Unit
	s.Unsigned = t.Trust.Mode == "checksum"
	st, err := a.tree.Status(state.Swap, name)
	if err != nil {
		s.Error = err.Error()
		return s
	}
	if v := swap.Installed(context.Background(), t, st); v != "" {
		s.Installed = v
	}
	if st.Previous != nil {
		s.Previous = st.Previous.Version
	}
	for _, r := range st.Rejected {
		if st.Rejects(r.Digest, r.Archive, r.Sequence) != nil && !slices.Contains(s.Rejected, r.Version) {
			s.Rejected = append(s.Rejected, r.Version)
		}
	}
	if fs, err := a.tree.Status(state.Fetch, name); err != nil {
		s.Error = err.Error()
	} else if fs.Offer != nil {
		s.Available, s.Checked = fs.Offer.Version, &fs.Offer.Checked
	}
	if j, err := a.tree.Journal(name); err != nil {
		s.Error = err.Error()
	} else if j != nil {
		s.Trial = j.Version
	}
	h, err := a.tree.History(name)
	if err != nil {
		s.Error = err.Error()
	}
	if n := len(h); n > 0 {
		s.Last = &h[n-1]
	}
	return s
}

func (s targetStatus) row() []string {
	r := []string{s.Target, s.Installed, "-", "-", "-", "-"}
	if s.Available != "" {
		r[2] = s.Available
	}
	if s.Unsigned {
		r[3] = "unsigned"
	}
	if s.Last != nil {
		r[4] = s.Last.Time.Local().Format("2006-01-02 15:04")
		r[5] = outcome(*s.Last)
	}
	if s.Trial != "" {
		r[5] = s.Trial + " is on trial"
	}
	if s.Error != "" {
		r[5] = s.Error
	}
	return r
}

// outcome is result and reason in one line.
func outcome(a state.Attempt) string {
	s := string(a.Result)
	if a.Version != "" && a.Result != state.Current {
		s += " " + a.Version
	}
	if a.Reason != "" {
		s += ": " + a.Reason
	}
	return s
}

func (a *app) history(args []string) error {
	names, err := a.choose(args)
	if err != nil {
		return err
	}
	attempts, err := a.tree.History(names[0])
	if err != nil {
		return err
	}
	slices.Reverse(attempts)
	var b strings.Builder
	if len(attempts) == 0 {
		fmt.Fprintf(&b, "no attempts on %s yet\n", names[0])
	} else {
		rows := [][]string{{"TIME", "ATTEMPT", "BY", "FROM", "TO", "RESULT"}}
		for _, at := range attempts {
			result := string(at.Result)
			if at.Reason != "" {
				result += ": " + at.Reason
			}
			rows = append(rows, []string{at.Time.Local().Format(time.DateTime), at.ID, string(at.Origin), or(at.From, "-"), or(at.Version, "-"), result})
		}
		table(&b, rows)
	}
	if attempts == nil {
		attempts = []state.Attempt{}
	}
	return a.print(map[string]any{"target": names[0], "attempts": attempts}, b.String())
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// print prints the JSON or the text of the same thing.
func (a *app) print(v any, text string) error {
	if !a.json {
		_, err := io.WriteString(a.out, text)
		return err
	}
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "%s\n", data)
	return err
}

func table(w io.Writer, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		for i, c := range r {
			r[i] = clean(c)
		}
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	tw.Flush()
}

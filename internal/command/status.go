package command

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// targetStatus is one target in `status --json`.
type targetStatus struct {
	Target      string   `json:"target"`
	Description string   `json:"description,omitempty"`
	Unit        string   `json:"unit,omitempty"`
	Also        []string `json:"also,omitempty"` // its other units
	signed      bool
	Unpinned    string         `json:"unpinned,omitempty"` // why no release can be trusted yet
	Installed   string         `json:"installed"`          // "unknown" if neither the record nor the program says it
	Available   string         `json:"available,omitempty"`
	Checked     *time.Time     `json:"checked,omitempty"`
	AutoUpdate  bool           `json:"auto_update"` // whether scheduled runs install
	Unsigned    bool           `json:"unsigned"`
	Signed      []state.Signed `json:"signed,omitempty"`    // the signatures of what is available
	Expiring    string         `json:"expiring,omitempty"`  // which of them has expired or will soon
	Previous    string         `json:"previous,omitempty"`  // the version that `rollback` would restore
	Rejected    []string       `json:"rejected,omitempty"`  // versions
	Unproven    string         `json:"unproven,omitempty"`  // why no probe proves what is installed
	Trial       string         `json:"trial,omitempty"`     // the version on trial
	Unsettled   string         `json:"unsettled,omitempty"` // why the rollback of the open trial failed, and whether it is tried again
	again       string         // whether it is tried again
	Held        *time.Time     `json:"held,omitempty"` // since when
	NextCheck   *time.Time     `json:"next_check,omitempty"`
	WhyNot      string         `json:"why_not,omitempty"`        // why scheduled runs would not install what is available
	Pending     bool           `json:"pending,omitempty"`        // whether the target file or a directory that it names changed since systemd's last daemon-reload
	Leaving     bool           `json:"leaving,omitempty"`        // whether the package is being removed, so that no attempt begins
	Source      *state.Source  `json:"source,omitempty"`         // what source.url_from led to
	Changed     string         `json:"source_changed,omitempty"` // how its file differs from that now
	Drift       []string       `json:"drift,omitempty"`          // what is not as the last update left it
	Warnings    []string       `json:"warnings,omitempty"`       // what may go wrong at an update
	Last        *state.Attempt `json:"last,omitempty"`
	mended      bool           // whether the mistake in the target file that ended the last attempt is there no more
	Error       string         `json:"error,omitempty"`
}

func (a *app) status(args []string) error {
	names, err := a.choose(args)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		a.warnOfUnread()
	}
	ctx := context.Background()
	m := a.see(ctx)
	if m != nil {
		defer m.Close()
	}
	all := []targetStatus{}
	for _, n := range names {
		all = append(all, a.statusOf(ctx, m, n))
	}
	text := a.noTargets()
	if len(all) > 0 {
		rows := []row{{cells: []string{"TARGET", "INSTALLED", "AVAILABLE", "TRUST", "LAST ATTEMPT", "RESULT"}}}
		for _, s := range all {
			rows = append(rows, s.row())
		}
		text = table(rows)
	}
	return a.print(map[string]any{"targets": all}, text)
}

func (a *app) statusOf(ctx context.Context, m machine, name string) targetStatus {
	s := targetStatus{Target: name, Installed: state.Unknown}
	failed := func(err error) {
		a.worst(exitOf(err))
		s.Error = strings.TrimPrefix(s.Error+"; "+err.Error(), "; ")
	}
	t, err := a.targets.Load(name)
	if err != nil {
		failed(err)
		// The records of an open trial and of a hold do not depend on the target file.
		if st, err := a.tree.Status(state.RoleSwap, name); err == nil {
			a.undecided(&s, &st)
		}
		return s
	}
	s.Description, s.Unit, s.Also, s.signed = t.Description, t.Unit, t.Also, t.Trust.Mode != target.TrustChecksum
	s.Unsigned, s.AutoUpdate = t.Trust.Mode == target.TrustChecksum, t.AutoUpdateEnabled
	if _, err := pin(t); err != nil {
		s.Unpinned = err.Error()
	}
	st, err := a.tree.Status(state.RoleSwap, name)
	if err != nil {
		failed(err)
		return s
	}
	if v := a.installedVersion(context.Background(), t, st); v != "" {
		s.Installed = v
	}
	a.undecided(&s, &st)
	if s.Trial == "" {
		s.Drift = changedFiles(&st)
		if m != nil {
			stray, err := strayProcesses(ctx, m, t, &st)
			if err != nil {
				failed(err)
			}
			s.Drift = append(s.Drift, stray...)
		}
	}
	if t.Source.From != nil {
		s.Source, s.Changed = st.Source, a.sourceChanged(ctx, m, t, &st)
	}
	if st.Installed != nil {
		s.Unproven = st.Installed.Unproven
	}
	if st.Previous != nil {
		s.Previous = cmp.Or(st.Previous.Version, state.Unknown)
	}
	s.Rejected = rejectedVersions(&st)
	for _, role := range []state.Role{state.RoleFetch, state.RoleVerify} {
		if f, ok := st.Foreign[role]; ok && time.Since(f.Time) < foreignShown {
			s.Warnings = append(s.Warnings, f.Time.Local().Format(minutes)+": "+f.What)
		}
	}
	if l, err := a.tree.FleetLock(name); err != nil {
		failed(err)
	} else if l != nil {
		s.Warnings = append(s.Warnings, l.String())
	}
	// History below reads this status again and reports its errors.
	if fs, err := a.tree.Status(state.RoleFetch, name); err == nil && fs.Offer != nil {
		s.Available, s.Checked = fs.Offer.Version, &fs.Offer.Checked
		if !s.Unsigned {
			s.Signed, s.Expiring = fs.Offer.Signed, expiring(fs.Offer.Signed, time.Now())
		}
	}
	h, err := a.tree.History(name)
	if err != nil {
		failed(err)
	}
	if n := len(h); n > 0 {
		s.Last = &h[n-1]
		s.mended = a.mended(t, *s.Last)
	}
	if err := a.outlook(ctx, m, &s, t, &st, h); err != nil {
		failed(err)
	}
	return s
}

// foreignShown is how long status shows what a worker of ours would not have left.
const foreignShown = 30 * 24 * time.Hour

// undecided fills in what keeps the target from updates: a hold, an open trial.
func (a *app) undecided(s *targetStatus, st *state.Status) {
	if st.Held != nil {
		s.Held = &st.Held.Since
	}
	if j, err := a.tree.Journal(s.Target); err == nil && j != nil {
		s.Trial, s.Unsettled = cmp.Or(j.Version, state.Unknown), cmp.Or(j.Unsettled(), st.RollbackFailure(j.Attempt))
		s.again = j.Again.String()
	}
}

// rejectedVersions returns the versions that are not tried again.
func rejectedVersions(st *state.Status) (versions []string) {
	for _, r := range st.Rejected {
		v := state.Called(r.Version)
		if st.Rejects(r.Fingerprint, r.Archive, r.Sequence) != nil && !slices.Contains(versions, v) {
			versions = append(versions, v)
		}
	}
	return versions
}

func (s targetStatus) row() row {
	r := row{cells: []string{s.Target, s.Installed, cmp.Or(s.Available, "-"), "-", "-", "-"}}
	if s.Unsigned {
		r.cells[3] = "unsigned"
	} else if s.Unpinned != "" {
		r.cells[3] = "unpinned"
	} else if s.signed {
		r.cells[3] = "signed"
	}
	reason := ""
	if s.Last != nil {
		r.cells[4] = s.Last.Time.Local().Format(minutes)
		r.cells[5], reason = outcome(*s.Last), s.Last.Reason
		if s.Last.Result == state.ResultUnproven && s.Unproven == "" {
			reason = provenSince
		}
		if s.mended {
			reason = "the target file can be used now"
		}
		if s.over(reason) {
			reason = ""
		}
	}
	switch {
	case s.Unsettled != "":
		r.cells[5] = "rollback failed " + s.Trial
	case s.Trial != "":
		r.cells[5], reason = onTrial(s.Trial), ""
	}
	if s.Held != nil {
		r.cells[5], reason = "held since "+s.Held.Local().Format(minutes), ""
	}
	r.note(s.Error)
	why, rejected := s.WhyNot, s.Rejected
	if s.Error == "" && reason != "" && strings.Contains(why, reason) { // WhyNot of a rejection contains the reason and how to undo it
		reason, why, rejected = why, "", nil
	}
	if s.Error == "" {
		r.note(reason)
	}
	if s.Last != nil && strings.HasPrefix(why, state.RejectedOn) && s.Available == s.Last.Rejected {
		rejected = nil // why says so, and how to undo it
	}
	if s.Error == "" && s.Held == nil && s.Last != nil {
		r.aftermath(s.Target, *s.Last, rejected)
	}
	if s.Unsettled != "" {
		if !strings.Contains(reason, s.again) { // how it goes on, which the record of the failure cannot know
			r.note(s.again)
		}
		r.note("decide: " + state.SettleHint(s.Target))
	}
	if s.Unproven != reason {
		r.note(s.Unproven)
	}
	if s.Unpinned != reason && s.Unpinned != s.WhyNot {
		r.note(s.Unpinned)
	}
	if s.Held == nil {
		r.note(why)
	}
	if s.Expiring != s.WhyNot || s.Held != nil {
		r.note(s.Expiring)
	}
	r.note(s.Changed)
	for _, d := range s.Drift {
		r.note(d)
	}
	for _, w := range s.Warnings {
		r.note("warning: " + w)
	}
	if s.Leaving {
		r.note("the package is being removed: no attempt begins (hint: sudo dpkg --configure -a)")
	}
	if s.Pending {
		r.note("the target file, or a directory that it names, has changed: systemd will know after sudo systemctl daemon-reload")
	}
	if s.NextCheck != nil {
		r.note("next check: " + s.NextCheck.Local().Format(minutes))
	}
	return r
}

// mended reports whether the target file, which can be read, has no longer the mistake that
// ended an attempt.
func (a *app) mended(t *target.Target, at state.Attempt) bool {
	rest, is := strings.CutPrefix(at.Reason, "cannot use target "+t.Name+": ")
	if !is || at.Result != state.ResultMisconfigured ||
		!strings.HasPrefix(rest, a.targets.Admin+"/") && !strings.HasPrefix(rest, a.targets.Vendor+"/") {
		return false
	}
	others, _ := installed.Others(a.tree, a.targets, t.Name) // status shows their mistakes, too
	return t.CheckDestinations(others) == nil
}

// over reports whether what refused the last attempt holds no more, since the operator has
// changed it. history keeps such a reason.
func (s targetStatus) over(reason string) bool {
	switch {
	case strings.HasPrefix(reason, policy.HeldSince):
		return s.Held == nil
	case strings.HasPrefix(reason, state.RejectedOn):
		return !slices.Contains(s.Rejected, state.Called(s.Last.Version))
	case strings.HasPrefix(reason, target.Unpinned):
		return s.Unpinned == ""
	}
	return false
}

// onTrial returns that the version is on trial, as text.
func onTrial(version string) string {
	if version == state.Unknown {
		return "an unknown version is on trial"
	}
	return version + " is on trial"
}

// outcome returns the result and the version that it is about.
func outcome(a state.Attempt) string {
	if a.Version == "" || a.Result == state.ResultCurrent || a.Result == state.ResultDrilled {
		return string(a.Result)
	}
	return string(a.Result) + " " + a.Version
}

package gate

import (
	"net/url"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// progress is how far a release has come, of the clients for whose platform it has an
// archive and that tell their version.
type progress struct {
	Clients int `json:"clients"`
	Have    int `json:"have"`
	Failed  int `json:"failed"`  // those that tried it and went back, or could not begin
	Waiting int `json:"waiting"` // for the rollout to reach them

	Since *time.Time `json:"since,omitempty"` // when it was published
	Notes string     `json:"notes,omitempty"` // address of the release notes
}

// newProgress returns the progress of a release before any client is counted.
func newProgress(m *manifest.Manifest, notes string) progress {
	p := progress{Notes: strings.ReplaceAll(notes, "{version}", url.PathEscape(m.Version))}
	if t, err := time.Parse(time.RFC3339, m.ReleasedAt); err == nil {
		p.Since = &t
	}
	return p
}

// add counts the clients of a class, but for those that wait: see census.
func (p *progress) add(k counted, m *manifest.Manifest) {
	r := k.report()
	if _, meant := decide(m, r); !meant {
		return
	}
	p.Clients += k.n
	switch {
	case has(m, r):
		p.Have += k.n
	case fails(m, r):
		p.Failed += k.n
	}
}

// has reports whether a client runs the release.
func has(m *manifest.Manifest, r report) bool { return manifest.SameVersion(m.Version, r.Version) }

// fails reports whether a client that does not run the release has tried it and failed.
func fails(m *manifest.Manifest, r report) bool {
	return r.Rejected != "" && manifest.SameVersion(m.Version, r.Rejected) ||
		r.ResultVersion != "" && manifest.SameVersion(m.Version, r.ResultVersion) && state.Result(r.Result).Alarming()
}

// Percent returns the share of n in percent of the clients.
func (p *progress) Percent(n int) int { return 100 * n / max(p.Clients, 1) }

// unmanaged reports whether a client's system has no updater, so that nothing that the
// gate tells it has an effect.
func unmanaged(r report) bool { return r.OS != "" && r.OS != "linux" }

// A meaning explains a result on the page.
type meaning struct {
	Result state.Result
	Text   string
}

// meanings explain the results that clients report, those that need an operator first.
var meanings = []meaning{
	{state.ResultRollbackFailed, "The new version failed, and so did going back. A person must act on the machine: machinemon-update settle."},
	{state.ResultRolledBack, "The new version failed its trial; the old one runs again, and the release was rejected there if it was to blame."},
	{state.ResultInterrupted, "The trial was cut short, as by a power cut, and undone. It is tried again."},
	{state.ResultRefused, "The release could not be verified. Nothing was changed."},
	{state.ResultFailed, "The attempt ended before anything was changed."},
	{state.ResultMisconfigured, "The machine's configuration keeps it from updating."},
	{state.ResultUnproven, "The new version runs, but no health probe passed, and none ever did there: nothing proves that it works."},
	{state.ResultNotDownloaded, "The release could not be downloaded. It is tried again."},
	{state.ResultOnTrial, "The new version runs and is being watched. It is kept or undone within minutes."},
	{state.ResultHandedOn, "An attempt is under way."},
	{state.ResultNotAttempted, "A rule, such as a hold or an earlier failure, kept the attempt from beginning."},
	{state.ResultAvailable, "There is another version; scheduled runs do not install there."},
	{state.ResultSettled, "An operator ended a trial whose rollback had failed."},
	{state.ResultDrilled, "An operator tried a program that fails on purpose there, and the installed version came back."},
	{state.ResultCommitted, "The new version passed its trial, and is kept."},
	{state.ResultAdopted, "The release's files were installed already, and are recorded as such."},
	{state.ResultCurrent, "The machine has the published version."},
}

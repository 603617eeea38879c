package gate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/state"
)

// plan returns the plan for the published release, or nil if it has none.
func (g *Gate) plan(m *manifest.Manifest) *rollout.Plan {
	f, _, err := g.openAny(path.Join(path.Dir(g.config.Manifest), rollout.FileName))
	if errors.Is(err, fs.ErrNotExist) {
		g.logState("rollout's plan", "", nil)
		return nil
	}
	var p *rollout.Plan
	if err == nil {
		defer f.Close()
		p, err = rollout.Decode(f)
	}
	g.logState("rollout's plan", "its state is not shown", err)
	if err != nil || !p.Of(m) {
		return nil
	}
	return p
}

// Rollout returns the state of the published release's plan, or nil if it has none.
func (g *Gate) Rollout(ctx context.Context, now time.Time) (*rollout.State, error) {
	m := g.release()
	p := g.plan(m)
	if p == nil {
		return nil, nil
	}
	s := g.store.Load()
	if s == nil {
		return nil, errNoDatabase
	}
	c := &census{m: m, plan: p, counts: rollout.Counts{Off: g.stopped()}}
	err := s.classes(ctx, now, c.add)
	if err == nil {
		err = c.finish(ctx, s)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the clients: %w", err)
	}
	state := p.State(c.counts, now)
	return &state, nil
}

func (g *Gate) getRollout(w http.ResponseWriter, r *http.Request) {
	switch s, err := g.Rollout(r.Context(), g.now()); {
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case s == nil:
		http.Error(w, "the release has no plan for its rollout", http.StatusNotFound)
	default:
		reply(w, s)
	}
}

// clocks is the time by which a client's clock may be behind the publisher's.
const clocks = 5 * time.Minute

// count adds what a client reports of the release to the counts. place is its machine's place
// in the rollout.
func count(c *rollout.Counts, p *rollout.Plan, m *manifest.Manifest, r report, place int) {
	if p == nil {
		return
	}
	since := func(t time.Time) bool { return !r.Attempted.Before(t.Add(-clocks)) }
	runs := manifest.SameVersion(r.Version, p.Version)
	tried := manifest.SameVersion(r.ResultVersion, p.Version) && since(p.Started)
	result := state.Result(r.Result)
	// A machine that rejected the release may try it again since, if its publisher says so.
	again := tried && (result == state.ResultAvailable || result == state.ResultHandedOn || result == state.ResultOnTrial)
	switch {
	case tried && failed(result), !runs && !again && r.Rejected != "" && manifest.SameVersion(r.Rejected, p.Version) && since(p.Started):
		c.Failed++
	case runs:
		c.Have++
	case awaited(p, m, r, place) && !(tried && result == state.ResultAvailable && since(p.Since)):
		c.Pending++
	}
}

// failed reports whether a result says that a release cannot be installed. An interrupted
// attempt and one without a download are repeated, and say nothing about the release.
func failed(r state.Result) bool {
	return r == state.ResultRolledBack || r == state.ResultRollbackFailed || r == state.ResultRefused || r == state.ResultFailed
}

// awaited reports whether a client's machine is among those that are to install the release,
// and was seen since its rollout started.
func awaited(p *rollout.Plan, m *manifest.Manifest, r report, place int) bool {
	d, meant := decideAt(m, r, place)
	return r.Lot != "" && meant && !d.Refused() && !r.Held && !r.Seen.Before(p.Started)
}

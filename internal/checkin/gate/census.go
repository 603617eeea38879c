package gate

import (
	"context"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/state"
)

// census counts how far a rollout has come. As it depends on each machine's place, and on
// the times of the plan, it reads the clients of those classes that may still wait for the
// release, or have failed.
type census struct {
	m       *manifest.Manifest
	plan    *rollout.Plan // or nil
	counts  rollout.Counts
	waiting int // clients for which the rollout has not come yet

	open   map[int64]class // classes whose clients have to be read
	n, all int             // how many clients that are, and how many there are
}

// add counts the clients of a class, or notes that they have to be read.
func (c *census) add(k counted) {
	c.all += k.n
	r := k.report()
	read := c.mayWait(r)
	if c.plan != nil {
		own := manifest.SameVersion(r.ResultVersion, c.plan.Version) && failed(state.Result(r.Result))
		first, meant := decideAt(c.m, r, 0)
		switch {
		case manifest.SameVersion(r.Version, c.plan.Version) && !own:
			c.counts.Have += k.n
		case own, r.Rejected != "" && manifest.SameVersion(r.Rejected, c.plan.Version), meant && !first.Refused() && !r.Held:
			read = true
		}
	}
	if !read {
		return
	}
	if c.open == nil {
		c.open = map[int64]class{}
	}
	c.open[k.id] = k.class
	c.n += k.n
}

// mayWait reports whether a client of this class waits for the rollout if its place is late.
func (c *census) mayWait(r report) bool {
	if c.m == nil || has(c.m, r) || fails(c.m, r) {
		return false
	}
	last, meant := decideAt(c.m, r, 99)
	return meant && last.Rule == policy.RuleRollout
}

// read counts the clients that add could not count.
func (c *census) read(ctx context.Context, s *store) error {
	classes := make([]int64, 0, len(c.open))
	waits := map[int64]bool{}
	for id, k := range c.open {
		classes = append(classes, id)
		waits[id] = c.mayWait(k.report())
	}
	return s.each(ctx, classes, c.n, c.all, func(id int64, row report) {
		r := c.open[id].report()
		r.Lot, r.Seen, r.Attempted = row.Lot, row.Seen, row.Attempted
		if waits[id] && place(c.m, r) >= rollout.Percent(c.m) {
			c.waiting++
		}
		count(&c.counts, c.plan, c.m, r)
	})
}

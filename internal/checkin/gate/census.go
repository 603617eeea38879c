package gate

import (
	"context"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/rollout"
)

// census counts how far a rollout has come. As it depends on each machine's place, and on
// the times of the plan, it reads the clients of those classes that may still wait for the
// release, or have failed.
type census struct {
	m       *manifest.Manifest
	plan    *rollout.Plan // or nil
	counts  rollout.Counts
	waiting int // clients for which the rollout has not come yet

	open   map[int64]cases   // of each class whose clients have to be read
	groups map[members]group // classes of which the last attempts do not matter
	n, all int               // how many clients are in open, and how many there are
}

// outcome is what one client adds to the counts.
type outcome struct {
	rollout.Counts
	waits bool
}

// members has the outcomes of the clients of a class with the same time of their last attempt:
// first by their place in the rollout (noID, isFirst, isLast), then by whether they were seen
// since the plan started (0, 1).
type members [3][2]outcome

// cases has the outcomes of the clients of a class by the time of their last attempt: see
// census.attempt.
type cases [3]members

const (
	noID    = iota // the client does not tell its machine's ID for rollouts
	isFirst        // the release is for its machine
	isLast         // its machine waits
)

// group is some classes and the number of their clients.
type group struct {
	classes []int64
	n       int
}

// add counts the clients of a class, or notes that they have to be read.
func (c *census) add(k counted) {
	c.all += k.n
	if c.m == nil || c.plan == nil && c.m.Rollout == nil {
		return
	}
	all := c.cases(k.report())
	if all[1] != all[0] || all[2] != all[0] {
		c.read(k.id, k.n, all)
		return
	}
	of := all[0]
	if one := of[0][0]; of == (members{{one, one}, {one, one}, {one, one}}) {
		c.count(one, k.n)
		return
	}
	if c.groups == nil {
		c.groups = map[members]group{}
	}
	g := c.groups[of]
	c.groups[of] = group{append(g.classes, k.id), g.n + k.n}
}

// read notes that clients of a class have to be read one by one.
func (c *census) read(class int64, n int, all cases) {
	if c.open == nil {
		c.open = map[int64]cases{}
	}
	c.open[class] = all
	c.n += n
}

// cases returns the outcomes of the clients that report r.
func (c *census) cases(r report) (all cases) {
	attempted, seen := [3]time.Time{}, [2]time.Time{}
	if c.plan != nil {
		attempted[1], attempted[2] = c.attempts()
		seen = [2]time.Time{c.plan.Started.Add(-time.Second), c.plan.Started}
	}
	for i := range attempted {
		for j := range seen {
			r.Attempted, r.Seen = attempted[i], seen[j]
			for at, machine := range [3]struct {
				lot   string
				place int
			}{noID: {"", 0}, isFirst: {"first", 0}, isLast: {"last", 99}} {
				r.Lot = machine.lot
				all[i][at][j] = c.outcome(r, machine.place)
			}
		}
	}
	return all
}

// outcome returns what a client at this place adds to the counts.
func (c *census) outcome(r report, place int) (o outcome) {
	count(&o.Counts, c.plan, c.m, r, place)
	if !has(c.m, r) && !fails(c.m, r) {
		d, meant := decideAt(c.m, r, place)
		o.waits = meant && d.Rule == policy.RuleRollout
	}
	return o
}

func (c *census) count(o outcome, n int) {
	c.counts.Have += n * o.Have
	c.counts.Failed += n * o.Failed
	c.counts.Pending += n * o.Pending
	c.waiting += n * boolToInt(o.waits)
}

// attempts returns the earliest times of attempts since the plan started, and since its step
// began, as [count] compares them; in ascending order.
func (c *census) attempts() (first, second time.Time) {
	first, second = c.plan.Started.Add(-clocks), c.plan.Since.Add(-clocks)
	if second.Before(first) {
		return second, first
	}
	return first, second
}

// attempt returns the index of cases for the time of a last attempt.
func (c *census) attempt(attempted time.Time) int {
	if c.plan == nil {
		return 0
	}
	first, second := c.attempts()
	return boolToInt(!attempted.Before(first)) + boolToInt(!attempted.Before(second))
}

// machine returns the index of members for an ID for rollouts.
func (c *census) machine(lot string) int {
	switch {
	case lot == "":
		return noID
	case rollout.Place(lot, c.m.Version) < rollout.Percent(c.m):
		return isFirst
	default:
		return isLast
	}
}

// since returns the index of members for the time of a client's last check-in.
func (c *census) since(seen int64) int {
	return boolToInt(c.plan != nil && !time.Unix(seen, 0).Before(c.plan.Started))
}

// finish counts the clients that add could not count.
func (c *census) finish(ctx context.Context, s *store) error {
	for of, g := range c.groups {
		if g.n <= c.all/50 {
			for _, class := range g.classes {
				c.read(class, 0, cases{of, of, of})
			}
			c.n += g.n
			continue
		}
		err := s.eachLot(ctx, g.classes, func(seen int64, lots string) {
			since := c.since(seen)
			var n [len(of)]int
			for lot := range strings.SplitSeq(lots, " ") {
				n[c.machine(lot)]++
			}
			for machine, o := range of {
				c.count(o[since], n[machine])
			}
		})
		if err != nil {
			return err
		}
	}
	classes := make([]int64, 0, len(c.open))
	for id := range c.open {
		classes = append(classes, id)
	}
	return s.each(ctx, classes, c.n, c.all, func(class int64, lot string, seen int64, attempted time.Time) {
		of := c.open[class]
		c.count(of[c.attempt(attempted)][c.machine(lot)][c.since(seen)], 1)
	})
}

// each calls f with what the clients of a class differ in, for all clients of these classes.
// n is their number, and all that of all clients.
func (s *store) each(ctx context.Context, classes []int64, n, all int, f func(class int64, lot string, seen int64, attempted time.Time)) error {
	if n == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	class := "class"
	if n > all/50 {
		class = "+class"
	}
	rows, err := s.db.QueryContext(ctx, "SELECT class, lot, seen, attempted FROM clients WHERE "+s.in(class, "$1"), s.array(classes))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id, seen, attempted int64
		var lot string
		if err := rows.Scan(&id, &lot, &seen, &attempted); err != nil {
			return err
		}
		f(id, lot, seen, unixTime(attempted))
	}
	return rows.Err()
}

// eachLot calls f with the IDs for rollouts of many clients of these classes, with a space
// between two, for each second in which such clients were seen last. It takes a fraction of
// the time of [store.each]: the index of seen has all of it, and rows are expensive.
func (s *store) eachLot(ctx context.Context, classes []int64, f func(seen int64, lots string)) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	rows, err := s.db.QueryContext(ctx, s.lotsQuery(), s.array(classes))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var seen int64
		var lots string
		if err := rows.Scan(&seen, &lots); err != nil {
			return err
		}
		f(seen, lots)
	}
	return rows.Err()
}

func (s *store) lotsQuery() string {
	concat := "group_concat"
	if s.postgres {
		concat = "string_agg"
	}
	return "SELECT seen, " + concat + "(lot, ' ') FROM clients WHERE " + s.in("+class", "$1") + " GROUP BY seen"
}

package gate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

const (
	// rereadInterval is the time between reads of the switch; another gate may turn it.
	rereadInterval = 2 * time.Second
	// maxBatch is the greatest number of reports in one transaction.
	maxBatch = 256
	// gather is how long the first report of a transaction waits for others.
	gather = 10 * time.Millisecond
)

// runDatabase opens the database and writes reports to it until ctx ends and all queued
// reports are written. It closes tried after the first attempt to open the database.
func (g *Gate) runDatabase(ctx context.Context, tried chan<- struct{}) {
	var following sync.WaitGroup
	following.Go(func() {
		g.openDatabase(ctx)
		close(tried)
		g.follow(ctx, rereadInterval)
	})
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case r := <-g.reports:
			select {
			case <-time.After(gather):
			case <-ctx.Done():
			}
			g.write(context.WithoutCancel(ctx), r)
		case <-tick.C:
			if s := g.store.Load(); s != nil {
				if err := s.forgetOld(ctx, time.Now()); ctx.Err() == nil {
					g.logDatabase("writing", err)
				}
			}
		case <-ctx.Done():
			following.Wait()
			// One timeout for all batches, so that a database that hangs delays the end once.
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), queryTimeout)
			defer cancel()
			for len(g.reports) > 0 {
				g.write(end, <-g.reports)
			}
			if s := g.store.Load(); s != nil {
				s.Close()
			}
			return
		}
	}
}

// follow reads the switch at each interval, or opens the database if it is closed.
func (g *Gate) follow(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if g.store.Load() == nil {
				g.openDatabase(ctx)
			} else {
				g.readDecision(ctx)
			}
		case <-ctx.Done():
			return
		}
	}
}

// openDatabase opens the database unless it is open, and reads the switch from it.
func (g *Gate) openDatabase(ctx context.Context) {
	if g.store.Load() != nil {
		return
	}
	s, err := openStore(ctx, g.config.Database)
	if err == nil {
		var now settings
		if now, err = s.settings(ctx); err == nil {
			g.adopt(now)
			g.logDatabase("writing", nil) // this store has not failed to write yet
			g.store.Store(s)
		} else {
			s.Close()
		}
	}
	if ctx.Err() == nil {
		g.logDatabase("reading", err)
	}
}

// readDecision reads the switch, which another gate may have changed. If that fails, it
// closes the database, which follow opens again: its tables may have to be created again.
func (g *Gate) readDecision(ctx context.Context) {
	// The lock keeps a value that was read before a decision from replacing it.
	g.deciding.Lock()
	defer g.deciding.Unlock()
	s := g.store.Load()
	now, err := s.settings(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		g.store.Store(nil)
		s.Close()
	} else {
		g.adopt(now)
	}
	g.logDatabase("reading", err)
}

// adopt takes over a decision of this or another gate, and logs a change. A database
// without a decision does not undo a known one: it may be a new, empty one.
func (g *Gate) adopt(n settings) {
	old := g.decided.Load()
	if old != nil && (n.By == "" || n.Directives == old.Directives && n.By == old.By && n.At.Equal(old.At)) {
		return
	}
	g.decided.Store(&n)
	if old != nil {
		g.problems.Say(fmt.Sprintf("directives are %s now, by %s", onOff(n.Directives), n.By))
	}
}

// logDatabase logs once that "reading" or "writing" the database fails, and once that
// both work again. work is one of the two, err its result.
func (g *Gate) logDatabase(work string, err error) {
	g.failing.Lock()
	defer g.failing.Unlock()
	g.failed[work] = err != nil
	if err == nil && (g.failed["reading"] || g.failed["writing"]) {
		return
	}
	meaning := "the gate passes check-ins on without recording them; the switch stays as it is"
	if g.decided.Load() == nil {
		meaning = "no client gets a directive, and checksum clients get a disabled manifest"
	}
	g.logState("database", meaning, err)
}

// write writes a report, and up to maxBatch-1 that are queued behind it.
func (g *Gate) write(ctx context.Context, first report) {
	reports := []report{first}
	for len(g.reports) > 0 && len(reports) < maxBatch {
		reports = append(reports, <-g.reports)
	}
	if s := g.store.Load(); s == nil {
		g.count.dropped.Add(int64(len(reports)))
	} else {
		err := s.insertReports(ctx, reports)
		if err != nil {
			g.count.dropped.Add(int64(len(reports)))
		}
		g.logDatabase("writing", err)
	}
	g.written.Add(-len(reports))
}

// queueReport queues a report for writing. If the queue is full, it drops the report, so
// that a slow database does not delay check-ins.
func (g *Gate) queueReport(r report) {
	g.written.Add(1)
	select {
	case g.reports <- r:
	default:
		g.written.Done()
		g.count.dropped.Add(1)
	}
}

// stopped reports whether updates are stopped. They are until the switch was read.
func (g *Gate) stopped() bool {
	d := g.decided.Load()
	return d == nil || !d.Directives
}

var errNoDatabase = errors.New("the database cannot be used (hint: journalctl -u machinemon-checkin-gate)")

// decide turns directives on or off, and stores that by did so.
func (g *Gate) decide(on bool, by string) (settings, error) {
	g.deciding.Lock()
	defer g.deciding.Unlock()
	s := g.store.Load()
	if s == nil {
		return settings{}, errNoDatabase
	}
	n := settings{on, state.Line(by), time.Now().UTC().Truncate(time.Second)}
	if err := s.setSettings(context.Background(), n); err != nil {
		return settings{}, fmt.Errorf("cannot store the decision: %w", err)
	}
	g.adopt(n)
	return n, nil
}

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
	// reread is how often the decision is read, which another gate may have changed.
	reread = 2 * time.Second
	// batch is how many reports are written at once, at most.
	batch = 256
)

// keep keeps the database until ctx ends and everything that was reported is written.
// When the database has answered for the first time, or did not, it closes tried.
func (g *Gate) runDatabase(ctx context.Context, tried chan<- struct{}) {
	var following sync.WaitGroup
	following.Go(func() {
		g.openDatabase(ctx)
		close(tried)
		g.follow(ctx, reread)
	})
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case r := <-g.reports:
			g.write(context.WithoutCancel(ctx), r)
		case <-tick.C:
			if s := g.store.Load(); s != nil {
				if err := s.forgetOld(ctx, time.Now()); ctx.Err() == nil {
					g.toldDatabase("writing", err)
				}
			}
		case <-ctx.Done():
			following.Wait()
			// A database that hangs delays the end once, not once for each batch.
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
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

// follow reads the decision again and again until ctx ends, and opens the database
// where that has not been possible yet, or was lost.
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

// openDatabase opens the database.
func (g *Gate) openDatabase(ctx context.Context) {
	if g.store.Load() != nil {
		return
	}
	s, err := openStore(ctx, g.config.Database)
	if err == nil {
		var now settings
		if now, err = s.settings(ctx); err == nil {
			g.learn(now)
			g.toldDatabase("writing", nil) // the store that it was said of is gone
			g.store.Store(s)
		} else {
			s.Close()
		}
	}
	if ctx.Err() == nil {
		g.toldDatabase("reading", err)
	}
}

// readDecision reads what was decided at any gate. A database that cannot tell is
// given up, to be opened anew: whatever it was, it may come back with other tables.
func (g *Gate) readDecision(ctx context.Context) {
	// Not between another's writing and learning of a decision, which this would undo.
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
		g.learn(now)
	}
	g.toldDatabase("reading", err)
}

// learn takes over what was decided, here or at another gate. What is known outlives
// the database: one that knows of no decision does not undo it.
func (g *Gate) learn(n settings) {
	old := g.decided.Load()
	if old != nil && (n.By == "" || n.Directives == old.Directives && n.By == old.By && n.At.Equal(old.At)) {
		return
	}
	g.decided.Store(&n)
	if old != nil {
		g.once.print(fmt.Sprintf("directives are %s now, by %s", map[bool]string{true: "on", false: "off"}[n.Directives], n.By))
	}
}

// toldDatabase says once that the database cannot be used for something, and once
// that it can for everything again.
func (g *Gate) toldDatabase(work string, err error) {
	g.failing.Lock()
	defer g.failing.Unlock()
	g.failed[work] = err != nil
	if err == nil && (g.failed["reading"] || g.failed["writing"]) {
		return
	}
	meaning := "check-ins pass, and are not recorded; the switch stays as it is"
	if g.decided.Load() == nil {
		meaning = "no client gets a directive, and checksum clients get a disabled manifest"
	}
	g.told("database", meaning, err)
}

// write writes a report, and those that wait behind it.
func (g *Gate) write(ctx context.Context, first report) {
	reports := []report{first}
	for len(g.reports) > 0 && len(reports) < batch {
		reports = append(reports, <-g.reports)
	}
	if s := g.store.Load(); s == nil {
		g.count.dropped.Add(int64(len(reports)))
	} else {
		err := s.insertReports(ctx, reports)
		if err != nil {
			g.count.dropped.Add(int64(len(reports)))
		}
		g.toldDatabase("writing", err)
	}
	g.written.Add(-len(reports))
}

// record has a report written. A database that is slow costs reports, not check-ins.
func (g *Gate) queueReport(r report) {
	g.written.Add(1)
	select {
	case g.reports <- r:
	default:
		g.written.Done()
		g.count.dropped.Add(1)
	}
}

// stopped tells whether updates are stopped; they are while nobody knows.
func (g *Gate) stopped() bool {
	d := g.decided.Load()
	return d == nil || !d.Directives
}

var errNoDatabase = errors.New("the database cannot be used (hint: journalctl -u machinemon-checkin-gate)")

// decide turns directives on or off.
func (g *Gate) decide(on bool, by string) (settings, error) {
	g.deciding.Lock()
	defer g.deciding.Unlock()
	s := g.store.Load()
	if s == nil {
		return settings{}, errNoDatabase
	}
	n := settings{on, state.Line(by), time.Now().UTC().Truncate(time.Second)}
	if err := s.setSettings(context.Background(), n); err != nil {
		return settings{}, fmt.Errorf("cannot keep the decision: %w", err)
	}
	g.learn(n)
	return n, nil
}

package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// keep keeps the database until ctx ends and everything that was reported is written.
func (g *Gate) keep(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case r := <-g.reports:
			g.write(r)
		case <-tick.C:
			g.openDatabase()
			if s := g.store.Load(); s != nil {
				g.told("database", "", s.forgetOld(time.Now()))
			}
		case <-ctx.Done():
			for len(g.reports) > 0 {
				g.write(<-g.reports)
			}
			if s := g.store.Load(); s != nil {
				s.Close()
			}
			return
		}
	}
}

// openDatabase opens the database where that has not been possible yet.
func (g *Gate) openDatabase() {
	if g.store.Load() != nil {
		return
	}
	s, err := openStore(g.config.Database)
	if err == nil {
		var now settings
		if now, err = s.settings(); err == nil {
			g.decided.CompareAndSwap(nil, &now)
			g.store.Store(s)
		} else {
			s.Close()
		}
	}
	g.told("database", "no client gets a directive, and checksum clients get a disabled manifest", err)
}

// write writes a report, and all that wait behind it.
func (g *Gate) write(first report) {
	batch := []report{first}
	for len(g.reports) > 0 {
		batch = append(batch, <-g.reports)
	}
	s := g.store.Load()
	if s == nil {
		g.count.dropped.Add(int64(len(batch)))
	} else if err := s.record(batch); err != nil {
		g.count.dropped.Add(int64(len(batch)))
		g.told("database", "check-ins pass, and are not recorded", err)
	} else {
		g.told("database", "", nil)
	}
	g.written.Add(-len(batch))
}

// record has a report written. A database that is slow costs reports, not check-ins.
func (g *Gate) record(r report) {
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
	s := g.store.Load()
	if s == nil {
		return settings{}, errNoDatabase
	}
	n := settings{on, state.Line(by), time.Now().UTC().Truncate(time.Second)}
	if err := s.setSettings(n); err != nil {
		return settings{}, fmt.Errorf("cannot keep the decision: %w", err)
	}
	g.decided.Store(&n)
	g.once.print(fmt.Sprintf("directives are %s now, by %s", map[bool]string{true: "on", false: "off"}[on], n.By))
	return n, nil
}

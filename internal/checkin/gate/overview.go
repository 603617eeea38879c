package gate

import (
	"context"
	"fmt"
	"net/url"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/rollout"
)

// overview counts the clients by their classes, and reads only those that it lists. It
// reads others while a release is for a part of the machines, or has a plan.
func (g *Gate) overview(ctx context.Context, q url.Values) (*overview, error) {
	s := g.store.Load()
	if s == nil {
		return nil, errNoDatabase
	}
	now := g.now()
	o := &overview{Note: selfReportedNote, Settings: g.settingsView(), Versions: []versionView{}, Clients: []clientView{}}
	m := g.release()
	if m != nil {
		o.Release = &releaseView{m.Version, m.Disabled, rollout.Percent(m), newProgress(m, g.config.ReleaseNotes)}
	}
	c := &census{m: m, plan: g.plan(m), counts: rollout.Counts{Off: g.stopped()}}
	l := newLister(s, m, q, silentBefore(now))
	at := map[string]int{}
	err := s.classes(ctx, now, func(k counted) {
		v := view(k.report(), m)
		if o.Release != nil {
			o.Release.add(k, m)
		}
		c.add(k)
		o.Total += k.n
		if v.Trouble {
			o.Trouble += k.n
		} else {
			o.Trouble += k.silent
		}
		o.Updates += k.n * boolToInt(v.Available)
		o.Held += k.n * boolToInt(v.Held)
		if i, there := at[k.Version]; there {
			o.Versions[i].Clients += k.n
		} else if len(at) < maxRows { // clients could report any number of versions
			at[k.Version] = len(o.Versions)
			o.Versions = append(o.Versions, versionView{k.Version, k.n})
		}
		l.add(k, v)
	})
	if err == nil {
		err = c.finish(ctx, s)
	}
	if err == nil {
		err = l.list(ctx, o)
	}
	if err == nil {
		err = s.markNamesakes(ctx, o.Clients)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the clients: %w", err)
	}
	if o.Release != nil {
		o.Release.Waiting = c.waiting
	}
	if c.plan != nil {
		s := c.plan.State(c.counts, now)
		o.Rollout = &s
	}
	if client := q.Get("history"); client != "" {
		if o.History, err = s.history(ctx, client); err != nil {
			return nil, fmt.Errorf("cannot read the history of a client: %w", err)
		}
	}
	sortByClients(o.Versions)
	return o, nil
}

// lister selects the clients that match a query, from their classes, and reads the first.
type lister struct {
	s     *store
	m     *manifest.Manifest
	q     url.Values
	order order
	all   int
	// trouble are the matching clients in trouble. Without a requested order they come first.
	trouble, others selection
}

func newLister(s *store, m *manifest.Manifest, q url.Values, before int64) *lister {
	return &lister{s: s, m: m, q: q, order: newOrder(q.Get("sort"), q.Get("order")),
		trouble: selection{silent: true, before: before}, others: selection{before: before}}
}

// add selects a class if its clients match. v is the view of one that is not silent.
func (l *lister) add(k counted, v clientView) {
	l.all += k.n
	c := selected{id: k.id, n: k.n}
	switch l.order.column {
	case "version":
		c.value = k.Version
	case "result":
		c.value = k.Result
	}
	fits := matches(v, l.q)
	switch {
	case v.Trouble && fits:
		l.trouble.whole = append(l.trouble.whole, c)
	case v.Trouble:
	case k.Told == "" && fits:
		l.others.whole = append(l.others.whole, c)
	case k.Told != "":
		silent, others := c, c
		silent.n, others.n = k.silent, k.n-k.silent
		if v.Trouble = true; silent.n > 0 && matches(v, l.q) {
			l.trouble.part = append(l.trouble.part, silent)
		}
		if others.n > 0 && fits {
			l.others.part = append(l.others.part, others)
		}
	}
}

// list reads the first clients that match, and counts all of them.
func (l *lister) list(ctx context.Context, o *overview) error {
	lists := []selection{l.trouble, l.others}
	if l.q.Get("sort") != "" {
		lists = []selection{l.trouble.with(l.others)}
	}
	var clients []string
	if text := l.q.Get("q"); text != "" {
		var err error
		if clients, o.Matching, err = l.s.search(ctx, text, l.order, lists, l.all); err != nil {
			return err
		}
	} else {
		for _, list := range lists {
			o.Matching += list.n()
			some, err := l.s.first(ctx, list, l.order, maxRows-len(clients), l.all)
			if err != nil {
				return err
			}
			clients = append(clients, some...)
		}
	}
	reports, err := l.s.reportsOf(ctx, clients)
	if err != nil {
		return err
	}
	for _, id := range clients {
		r := reports[id]
		v := view(r.report, l.m)
		if r.told != "" && r.Seen.Unix() < l.trouble.before {
			v.Silent, v.Trouble = r.told, true
		}
		if r.ClientID != "" && matches(v, l.q) { // else it has changed meanwhile
			o.Clients = append(o.Clients, v)
		}
	}
	return nil
}

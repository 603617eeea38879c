package health

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// watch runs a trial to its end: it reads the units' states at each event of systemd,
// tries the probes when they are due, and passes both to the trial.
func watch(ctx context.Context, t *trial, look func(ctx context.Context, unit int) (unitState, error), changes <-chan struct{}, say func(string)) outcome {
	type result struct {
		probe int
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	var tries sync.WaitGroup
	defer tries.Wait() // no command outlives the judgement
	defer cancel()
	results := make(chan result, len(t.probes)) // each probe has at most one try running

	see := func(i int) {
		begin := time.Now()
		s, err := look(ctx, i)
		if took := time.Since(begin); took > slip {
			t.wasHeldUp(took) // systemd does nothing else than reload, perhaps
		}
		switch {
		case err == nil:
			t.unitSeen(time.Now(), i, s)
		case !errors.Is(err, errVanished):
			t.stateUnknown(i, err)
		}
	}
	seeAll := func() {
		for i := range t.units {
			see(i)
		}
	}
	seeAll()
	t.advance(time.Now())
	said := ""
	for t.end == nil {
		now := time.Now()
		for _, i := range t.startDue(now) {
			p, who, limit := t.probes[i].prober, t.peers, t.left(now, i)
			who.units, who.rested = t.lastSeen(), t.rested()
			tries.Go(func() { results <- result{i, try(ctx, p, who, limit)} })
		}
		if s := t.status(now); s != said {
			say(s)
			said = s
		}
		// At least as often as this, to notice if this process is held up.
		alarm := now.Add(slip)
		if at, ok := t.nextWake(now); ok && at.Before(alarm) {
			alarm = at
		}
		woken := func() {
			if late := time.Since(alarm); late > slip {
				t.wasHeldUp(late)
			}
		}
		select {
		case <-changes:
			woken()
			seeAll()
		case r := <-results:
			woken()
			t.probeEnded(time.Now(), r.probe, r.err)
		case <-time.After(time.Until(alarm)):
			woken()
			now := time.Now()
			for i, w := range t.units {
				if !w.lookAt.IsZero() && !now.Before(w.lookAt) {
					see(i)
				}
			}
			t.advance(now)
		}
	}
	return *t.end
}

// try tries a probe once.
func try(ctx context.Context, p prober, who peers, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin := time.Now()
	err := p.try(ctx, who)
	if _, ok := judged(err); ok {
		return err
	}
	if err != nil && ctx.Err() != nil {
		if over := time.Since(begin) - limit; over > slip {
			return heldUp{over}
		}
		return fmt.Errorf("no answer within %s", seconds(limit))
	}
	return err
}

package health

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// watch brings a judgement to its end: it looks at the unit at every change
// that systemd tells, tries the probes when they are due, and feeds the trial.
func watch(ctx context.Context, t *trial, look func(context.Context) (sight, error), changes <-chan struct{}, say func(string)) outcome {
	type result struct {
		probe int
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	var tries sync.WaitGroup
	defer tries.Wait() // no command outlives the judgement
	defer cancel()
	results := make(chan result, len(t.probes)) // one try of each at a time

	see := func() {
		switch s, err := look(ctx); {
		case err == nil:
			t.sees(time.Now(), s)
		case !errors.Is(err, errVanished):
			t.lost(err)
		}
	}
	see()
	said := ""
	for t.end == nil {
		now := time.Now()
		for _, i := range t.due(now) {
			p, limit := t.probes[i].of(t.last.Unit), t.left(now, i)
			tries.Go(func() { results <- result{i, try(ctx, p, limit)} })
		}
		if s := t.status(now); s != said {
			say(s)
			said = s
		}
		var alarm <-chan time.Time
		if at, ok := t.wake(now); ok {
			alarm = time.After(time.Until(at))
		}
		select {
		case <-changes:
			see()
		case r := <-results:
			t.hears(time.Now(), r.probe, r.err)
		case <-alarm:
			now := time.Now()
			if !t.lookAt.IsZero() && !now.Before(t.lookAt) {
				see()
			}
			t.advance(now)
		}
	}
	return *t.end
}

// try makes one try of a probe.
func try(ctx context.Context, p prober, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := p.try(ctx)
	if _, ok := errors.AsType[noAnswer](err); ok {
		return err
	}
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("no answer within %s", seconds(limit))
	}
	return err
}

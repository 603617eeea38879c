package systemd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// Leaving watches until left is called. left returns when the first of the units stopped
// being active since, by CLOCK_MONOTONIC as systemd says; 0 if none did, or if the
// connection was lost. A unit's properties alone cannot tell: a later start and end of the
// unit overwrites them.
func (c *Conn) Leaving(ctx context.Context, units ...string) (left func() time.Duration, err error) {
	since, err := Monotonic()
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	first, seen := time.Duration(0), make(chan struct{})
	watcher := newConn(units...)
	watcher.private, watcher.changed = true, func(p map[string]godbus.Variant) {
		usec, _ := p["ActiveExitTimestampMonotonic"].Value().(uint64)
		at := time.Duration(usec) * time.Microsecond
		if at <= since {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if first == 0 {
			close(seen)
		}
		if first == 0 || at < first {
			first = at
		}
	}
	soon, cancel := context.WithTimeoutCause(ctx, 10*late, errors.New("systemd does not answer"))
	defer cancel()
	if err := watcher.do(soon, func(*link) error { return nil }); err != nil {
		return nil, fmt.Errorf("cannot watch %s: %w", strings.Join(units, ", "), err)
	}
	return func() time.Duration {
		defer watcher.Close()
		select {
		case <-seen:
		case <-time.After(late): // the signals come on another connection than the end of a job
		}
		mu.Lock()
		defer mu.Unlock()
		return first
	}, nil
}

// late is how much later than the end of a job a signal about it may arrive.
const late = time.Second

package systemd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// Uptime is how long ago the machine booted: a container's own boot, in one.
// Suspended time does not count.
func (c *Conn) Uptime(ctx context.Context) (time.Duration, error) {
	const booted = "UserspaceTimestampMonotonic" // org.freedesktop.systemd1(5)
	var text string
	err := c.do(ctx, func(l *link) (err error) {
		text, err = l.sd.GetManagerProperty(booted)
		return err
	})
	var usec uint64
	if err == nil {
		_, err = fmt.Sscanf(text, "@t %d", &usec)
	}
	now, nerr := Monotonic()
	if err = errors.Join(err, nerr); err != nil {
		return 0, fmt.Errorf("cannot tell when systemd started: %w", err)
	}
	return now - time.Duration(usec)*time.Microsecond, nil
}

// NextElapse is when a timer will elapse next, to the second: it is told by one
// clock and counted by another. It is zero when the timer is not waiting for a time.
func (c *Conn) NextElapse(ctx context.Context, timer string) (time.Time, error) {
	var p map[string]any
	err := c.do(ctx, func(l *link) (err error) {
		p, err = l.sd.GetAllPropertiesContext(ctx, timer)
		return err
	})
	now, nerr := Monotonic()
	if err = errors.Join(err, nerr); err != nil {
		return time.Time{}, fmt.Errorf("cannot read the state of %s: %w", timer, err)
	}
	usec, _ := p["NextElapseUSecMonotonic"].(uint64)
	if sub, _ := p["SubState"].(string); sub != "waiting" || usec == 0 || usec > math.MaxInt64/1000 {
		return time.Time{}, nil
	}
	return time.Now().Add(time.Duration(usec)*time.Microsecond - now).Truncate(time.Second), nil
}

// Monotonic is systemd's clock for what elapses, and the journal's.
func Monotonic() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}

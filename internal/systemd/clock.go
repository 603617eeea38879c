package systemd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// Uptime returns the time since the machine, or the container, booted. It does not
// count the time that the machine was suspended.
func (c *Conn) Uptime(ctx context.Context) (time.Duration, error) {
	const booted = "UserspaceTimestampMonotonic" // org.freedesktop.systemd1(5)
	var usec uint64
	err := c.do(ctx, func(l *link) error {
		return l.property(ctx, "/org/freedesktop/systemd1", manager, booted, &usec)
	})
	now, nerr := Monotonic()
	if err = errors.Join(err, nerr); err != nil {
		return 0, fmt.Errorf("cannot read when systemd started: %w", err)
	}
	return now - time.Duration(usec)*time.Microsecond, nil
}

// NextElapse returns when a timer elapses next. It is exact to a second only, because
// it is converted from the monotonic clock. It is zero if the timer waits for no time.
func (c *Conn) NextElapse(ctx context.Context, timer string) (time.Time, error) {
	p, err := c.properties(ctx, timer)
	now, nerr := Monotonic()
	if err = errors.Join(err, nerr); err != nil {
		return time.Time{}, fmt.Errorf("cannot read the state of %s: %w", timer, err)
	}
	if sub, _ := p["SubState"].(string); sub != "waiting" {
		return time.Time{}, nil
	}
	usec := func(property string) (n uint64, waits bool) {
		n, _ = p[property].(uint64)
		return n, n > 0 && n <= math.MaxInt64/1000
	}
	var next time.Time
	if n, waits := usec("NextElapseUSecMonotonic"); waits {
		next = time.Now().Add(time.Duration(n)*time.Microsecond - now)
	}
	if n, waits := usec("NextElapseUSecRealtime"); waits { // of OnCalendar=
		if at := time.UnixMicro(int64(n)); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next.Truncate(time.Second), nil
}

// Monotonic reads CLOCK_MONOTONIC, the clock of systemd's timers and of the journal's
// monotonic timestamps.
func Monotonic() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}

package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// OverdueError is a start that was not done within its limit. Its job has been
// cancelled; what the unit had started by then still runs.
type OverdueError struct {
	Unit   Unit // as it was when the limit was over
	Within time.Duration
}

func (e *OverdueError) Error() string {
	return fmt.Sprintf("%s is still %s %s after its start began", e.Unit.Name, e.Unit, e.Within)
}

// Restart restarts a unit, or starts it where it does not run, and waits for the
// job as [Conn.Start] does. With a limit above zero the wait ends when the new start
// has taken that long; how long the stop of the old program takes does not count.
// The error is an [*OverdueError] then.
func (c *Conn) Restart(ctx context.Context, name string, limit time.Duration) error {
	now, err := Monotonic()
	if err != nil {
		return err
	}
	ended, overdue := make(chan struct{}), make(chan error, 1)
	if limit > 0 {
		go func() { overdue <- c.cancelLate(ctx, ended, name, now, limit) }()
	} else {
		overdue <- nil
	}
	err = c.job(ctx, "restart", name, func(l *link, done chan<- string) error {
		_, err := l.sd.RestartUnitContext(ctx, name, "replace", done)
		return err
	})
	close(ended) // also by the cancelling, whose own answer is still awaited
	if late := <-overdue; late != nil {
		return late
	}
	return err
}

// cancelLate cancels the unit's job once a start that began after the given time
// has taken longer than the limit. It returns nil when the job ends first. Each wait
// is as long as the start can still take, so the limit is met exactly without polling.
func (c *Conn) cancelLate(ctx context.Context, ended <-chan struct{}, name string, after, limit time.Duration) error {
	for wait := limit; ; {
		select {
		case <-ended:
			return nil
		case <-time.After(wait):
		}
		u, err := c.Unit(ctx, name)
		if err != nil {
			return err
		}
		now, err := Monotonic()
		if err != nil {
			return err
		}
		if u.Began < after { // the old program has not stopped yet
			wait = limit
			continue
		}
		if wait = limit - (now - u.Began); wait > 0 {
			continue
		}
		if u.Job == 0 {
			return nil // it ended this moment
		}
		if err := c.cancel(ctx, u.Job); err != nil {
			return err
		}
		return &OverdueError{u, limit}
	}
}

// cancel cancels a queued or running job. One that has ended is no error.
func (c *Conn) cancel(ctx context.Context, job uint32) error {
	err := c.do(ctx, func(l *link) error {
		manager := l.raw[0].Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
		return manager.CallWithContext(ctx, "org.freedesktop.systemd1.Manager.CancelJob", godbus.Flags(0), job).Err
	})
	if err != nil && !isName(err, "org.freedesktop.systemd1.NoSuchJob") {
		return fmt.Errorf("cannot cancel job %d: %w", job, err)
	}
	return nil
}

// Elapsed is how much time has passed since a moment of CLOCK_MONOTONIC, such as
// [Unit.Began].
func Elapsed(since time.Duration) (time.Duration, error) {
	now, err := Monotonic()
	return now - since, err
}

// IsOverdue reports whether the error is an [*OverdueError].
func IsOverdue(err error) bool {
	_, ok := errors.AsType[*OverdueError](err)
	return ok
}

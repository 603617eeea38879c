package systemd

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// OverdueError says that a start took longer than its limit. Its job was cancelled; the
// processes that the unit had started still run.
type OverdueError struct {
	Unit   Unit // its state when the limit was over
	Within time.Duration
}

func (e *OverdueError) Error() string {
	return fmt.Sprintf("%s is still %s %s after its start began", e.Unit.Name, e.Unit, e.Within)
}

// Restart restarts a unit, or starts it if it does not run, and waits for the job as
// [Conn.Start] does. If limit is above zero and the start of the new program takes
// longer, it returns an [*OverdueError]. The stop of the old program does not count.
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
	err = c.job(ctx, "restart", name, (*dbus.Conn).RestartUnitContext)
	close(ended) // cancelling the job ends it, too; the answer to that is awaited below
	if late := <-overdue; late != nil {
		return late
	}
	return err
}

// cancelLate cancels the unit's job when a start that began after the given time takes
// longer than the limit. It returns nil if the job ends first. Each wait lasts as long
// as the start may still take, so there is no polling.
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
			return nil // the job has just ended
		}
		if err := c.cancel(ctx, u.Job); err != nil {
			return err
		}
		return &OverdueError{u, limit}
	}
}

// cancel cancels a queued or running job. It returns nil if the job has ended.
func (c *Conn) cancel(ctx context.Context, job uint32) error {
	err := c.do(ctx, func(l *link) error {
		return l.call(ctx, "CancelJob", job).Err
	})
	if err != nil && !isName(err, "org.freedesktop.systemd1.NoSuchJob") {
		return fmt.Errorf("cannot cancel job %d: %w", job, err)
	}
	return nil
}

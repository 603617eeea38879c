package systemd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// JobError says that a job ended with another result than "done".
type JobError struct{ Verb, Unit, Result string }

func (e *JobError) Error() string {
	return fmt.Sprintf("cannot %s %s: the job ended with %q", e.Verb, e.Unit, e.Result)
}

// Start starts a unit and waits for the job. If the connection was lost meanwhile, the
// result of the job is unknown and Start returns nil: the caller reads the unit's state.
func (c *Conn) Start(ctx context.Context, name string) error {
	return c.job(ctx, "start", name, (*dbus.Conn).StartUnitContext)
}

// Queue starts a unit and does not wait for the job.
func (c *Conn) Queue(ctx context.Context, name string) error {
	_, err := ask(ctx, c, func(sd *dbus.Conn) (int, error) { return sd.StartUnitContext(ctx, name, "replace", nil) })
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", name, err)
	}
	return nil
}

// Stop stops a unit and waits as Start does. For a unit that is not loaded it returns nil.
func (c *Conn) Stop(ctx context.Context, name string) error {
	err := c.job(ctx, "stop", name, (*dbus.Conn).StopUnitContext)
	if isName(err, "org.freedesktop.systemd1.NoSuchUnit") {
		return nil
	}
	return err
}

// ReloadUnit makes a unit that runs read its configuration again, as its ExecReload= says,
// and waits as Start does.
func (c *Conn) ReloadUnit(ctx context.Context, name string) error {
	return c.job(ctx, "reload", name, (*dbus.Conn).ReloadUnitContext)
}

// Kill ends all processes of a unit at once.
func (c *Conn) Kill(ctx context.Context, name string) error {
	err := c.do(ctx, func(l *link) error { return l.sd.KillUnitWithTarget(ctx, name, dbus.All, int32(unix.SIGKILL)) })
	if err != nil {
		return fmt.Errorf("cannot kill %s: %w", name, err)
	}
	return nil
}

// A queuer is a method of go-systemd that queues a job and later sends its result.
type queuer func(sd *dbus.Conn, ctx context.Context, name, mode string, done chan<- string) (int, error)

// job queues a job and waits for its end. Since systemd 256 no job ends a unit that somebody has
// frozen, so job thaws it, as systemd itself did before.
func (c *Conn) job(ctx context.Context, verb, name string, queue queuer) error {
	err := c.tryJob(ctx, verb, name, queue)
	if ended, ok := errors.AsType[*JobError](err); !ok || ended.Result != "frozen" {
		return err
	}
	if terr := c.do(ctx, func(l *link) error { return l.sd.ThawUnit(ctx, name) }); terr != nil {
		return fmt.Errorf("%w; cannot thaw it: %w", err, terr)
	}
	return c.tryJob(ctx, verb, name, queue)
}

func (c *Conn) tryJob(ctx context.Context, verb, name string, queue queuer) error {
	done := make(chan string, 1)
	enough := func() {}
	defer func() { enough() }()
	var l *link
	err := c.do(ctx, func(now *link) (err error) {
		l = now
		if enough, err = l.expect(ctx, name); err != nil {
			return err
		}
		_, err = queue(now.sd, ctx, name, "replace", done)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot %s %s: %w", verb, name, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return &JobError{verb, name, result}
		}
		return nil
	case <-l.lost():
		c.drop(l)
		return c.settle(ctx, name)
	case <-ctx.Done():
		return fmt.Errorf("cannot %s %s: %w", verb, name, context.Cause(ctx))
	}
}

// settle waits until a unit has no job. It reads the unit repeatedly, because the
// signal of the job's end may have been lost with the connection.
func (c *Conn) settle(ctx context.Context, name string) error {
	for {
		u, err := c.Unit(ctx, name)
		if err != nil || u.Job == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot await the job of %s: %w", name, context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// ResetFailed resets the failed state and the start counter of units: after a crash
// loop the start limit refuses a start. It skips units that are not loaded.
func (c *Conn) ResetFailed(ctx context.Context, names ...string) error {
	for _, name := range names {
		err := c.do(ctx, func(l *link) error { return l.sd.ResetFailedUnitContext(ctx, name) })
		if err != nil && !isName(err, "org.freedesktop.systemd1.NoSuchUnit") {
			return fmt.Errorf("cannot reset %s: %w", name, err)
		}
	}
	return nil
}

// Reload makes systemd read its unit files again.
func (c *Conn) Reload(ctx context.Context) error {
	if err := c.do(ctx, func(l *link) error { return l.sd.ReloadContext(ctx) }); err != nil {
		return fmt.Errorf("cannot reload systemd: %w", err)
	}
	return nil
}

// NotifyUnit and NotifyTimer are the sender of a target's notices, and the timer that starts
// it again.
func NotifyUnit(name string) string  { return "machinemon-notify@" + name + ".service" }
func NotifyTimer(name string) string { return "machinemon-notify@" + name + ".timer" }

// UnlockUnit and UnlockTimer are the unit that gives the lock of the fleet back, and the timer
// that starts it again.
func UnlockUnit(name string) string  { return "machinemon-unlock@" + name + ".service" }
func UnlockTimer(name string) string { return "machinemon-unlock@" + name + ".timer" }

// Arm starts a transient timer that starts the service of the same name after the given
// time. It replaces a timer of that name.
func (c *Conn) Arm(ctx context.Context, timer string, after time.Duration) error {
	if err := c.Stop(ctx, timer); err != nil {
		return err
	}
	type monotonic struct {
		Base string
		USec uint64
	}
	return c.transient(ctx, timer, []dbus.Property{
		dbus.PropDescription("Time until " + strings.TrimSuffix(timer, "timer") + "service starts"),
		property("TimersMonotonic", []monotonic{{"OnActiveSec", uint64(after.Microseconds())}}),
		property("AccuracyUSec", uint64(100_000)),
		property("RemainAfterElapse", false),
	})
}

func (c *Conn) transient(ctx context.Context, name string, props []dbus.Property) error {
	return c.job(ctx, "start", name, func(sd *dbus.Conn, ctx context.Context, name, mode string, done chan<- string) (int, error) {
		id, err := sd.StartTransientUnitContext(ctx, name, mode, props, done)
		if isName(err, "org.freedesktop.systemd1.UnitExists") {
			// The answer was lost, but systemd carried out the first call.
			return sd.StartUnitContext(ctx, name, mode, done)
		}
		return id, err
	})
}

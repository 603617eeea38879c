package systemd

import (
	"context"
	"fmt"
	"slices"
)

// Processes lists the processes of a unit's control group, control processes
// included, whatever the hierarchy of control groups is.
func (c *Conn) Processes(ctx context.Context, unit string) ([]int, error) {
	type process struct {
		Group   string
		PID     uint32
		Command string
	}
	var listed []process
	err := c.do(ctx, func(l *link) error {
		// go-systemd has no method for it. Of its two connections the first makes
		// the calls.
		systemd := l.raw[0].Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
		return systemd.CallWithContext(ctx, "org.freedesktop.systemd1.Manager.GetUnitProcesses", 0, unit).Store(&listed)
	})
	if isName(err, "org.freedesktop.systemd1.NoSuchUnit") { // it is not loaded
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list the processes of %s: %w", unit, err)
	}
	var pids []int
	for _, p := range listed {
		pids = append(pids, int(p.PID))
	}
	slices.Sort(pids)
	return pids, nil
}

package systemd

import (
	"context"
	"fmt"
	"slices"
)

// Processes lists the processes of a unit's control group, control processes included.
// It works with each hierarchy of control groups. It is empty for a unit that is not
// loaded.
func (c *Conn) Processes(ctx context.Context, unit string) ([]int, error) {
	type process struct {
		Group   string
		PID     uint32
		Command string
	}
	var listed []process
	err := c.do(ctx, func(l *link) error {
		return l.call(ctx, "GetUnitProcesses", unit).Store(&listed)
	})
	if isName(err, "org.freedesktop.systemd1.NoSuchUnit") {
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

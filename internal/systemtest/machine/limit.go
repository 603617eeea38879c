package machine

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// inotifyInstances is the limit of inotify instances per user. Each path unit of each
// booted machine takes one, and all count as those of this host's root, whose limit is
// 128 by default.
const inotifyInstances = "/proc/sys/fs/inotify/max_user_instances"

// raise raises a limit of the kernel to at least this value. The limit is not lowered
// after the run: a higher limit costs nothing, and another run may need it.
func raise(limit string, least int) error {
	now, err := os.ReadFile(limit)
	if err != nil {
		return fmt.Errorf("cannot read a limit of the kernel: %w", err)
	}
	value, err := strconv.Atoi(strings.TrimSpace(string(now)))
	if err != nil {
		return fmt.Errorf("cannot read a limit of the kernel: %s: %w", limit, err)
	}
	if value >= least {
		return nil
	}
	if err := os.WriteFile(limit, []byte(strconv.Itoa(least)), 0o644); err != nil {
		return fmt.Errorf("cannot raise a limit of the kernel to %d: %w", least, err)
	}
	return nil
}

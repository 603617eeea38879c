package relay

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
)

const command = "/usr/bin/machinemon-update"

// statusOf runs the command for a target's status. Its exit status does not matter: it is
// 1 if the target needs an operator's attention.
func statusOf(ctx context.Context, command, target string) (checkin.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, command, "status", "--check", target)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if s, ok := checkin.ParseStatus(string(out)); ok && s.Target == target {
		return s, nil
	}
	if err == nil {
		err = errors.New("it does not print a status")
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		err = errors.New(strings.TrimSpace(string(exit.Stderr)))
	}
	return checkin.Status{}, fmt.Errorf("cannot run machinemon-update status --check %s: %w", target, err)
}

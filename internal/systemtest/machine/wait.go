package machine

import (
	"context"
	"fmt"
	"time"
)

// WaitFor polls a condition that no event announces, until ctx ends
// (RunTimeout without a deadline). Where there is a journal entry, AwaitJournal
// is better.
func WaitFor(ctx context.Context, what string, condition func() bool) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, RunTimeout)
		defer cancel()
	}
	// Less and less often: to look may be a command in the machine, which it slows.
	for pause := 5 * time.Millisecond; !condition(); pause = min(2*pause, 80*time.Millisecond) {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("cannot see that %s: %w", what, ctx.Err())
		}
	}
	return nil
}

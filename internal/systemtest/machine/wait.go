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
	for {
		start := time.Now()
		if condition() {
			return nil
		}
		// To look may be a command in the machine, which it slows: it has half the time.
		select {
		case <-time.After(max(5*time.Millisecond, time.Since(start))):
		case <-ctx.Done():
			return fmt.Errorf("cannot see that %s: %w", what, ctx.Err())
		}
	}
}

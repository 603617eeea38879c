package machine

import (
	"context"
	"fmt"
	"time"
)

// WaitFor polls a condition until it holds or ctx ends (after RunTimeout if ctx has no
// deadline). It is for conditions without a journal entry; for others use AwaitJournal.
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
		// condition may run a command in the machine and slow it, so it gets half the time.
		select {
		case <-time.After(max(5*time.Millisecond, time.Since(start))):
		case <-ctx.Done():
			return fmt.Errorf("cannot see that %s: %w", what, ctx.Err())
		}
	}
}

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
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("cannot see that %s: %w", what, ctx.Err())
		}
	}
	return nil
}

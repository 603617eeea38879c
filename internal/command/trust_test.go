package command

import (
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// TestExpiring: no warning appears while a publisher's timer renews signatures each day.
func TestExpiring(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	at := func(d time.Duration) string { return now.Add(d).Local().Format(minutes) }
	for _, c := range []struct {
		name                      string
		root, timestamp, snapshot time.Duration
		want                      string
	}{
		{name: "fresh", root: 300 * day, timestamp: 6 * day, snapshot: 6 * day},
		{name: "no refresh for a while", root: 300 * day, timestamp: 2 * day, snapshot: 5 * day,
			want: "timestamp v4 expires on " + at(2*day) + ": nothing is installed after that unless the publisher signs again"},
		{name: "a root that is not renewed", root: 6 * day, timestamp: 5 * day, snapshot: 5 * day,
			want: "root v1 expires on " + at(6*day) + ": nothing is installed after that unless the publisher signs again"},
		{name: "expired", root: 6 * day, timestamp: 2 * day, snapshot: -time.Hour,
			want: "snapshot v3 has expired on " + at(-time.Hour) + ": nothing is installed until the publisher signs again"},
	} {
		got := expiring([]state.Signed{
			{Role: "root", Version: 1, Expires: now.Add(c.root)},
			{Role: "timestamp", Version: 4, Expires: now.Add(c.timestamp)},
			{Role: "snapshot", Version: 3, Expires: now.Add(c.snapshot)},
		}, now)
		if got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// TestExpiring checks which signature is warned of, and how long before it expires.
func TestExpiring(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name                               string
		root, targets, snapshot, timestamp time.Duration // until it expires
		want                               string        // the start of the warning
	}{
		{"all are fresh", 8 * day, 8 * day, 4 * day, 4 * day, ""},
		{"the root", 6 * day, 8 * day, 4 * day, 4 * day, "root v1 expires on "},
		{"the targets", 8 * day, 6 * day, 4 * day, 4 * day, "targets v2 expires on "},
		{"the snapshot", 8 * day, 8 * day, 2 * day, 4 * day, "snapshot v3 expires on "},
		{"the timestamp", 8 * day, 8 * day, 4 * day, 2 * day, "timestamp v4 expires on "},
		{"the first of several", 2 * day, day, 2 * day, 2 * day, "targets v2 expires on "},
		{"expired", 8 * day, 8 * day, 4 * day, -time.Second, "timestamp v4 has expired on "},
	} {
		first, warning := Expiring([]state.Signed{
			{Role: "root", Version: 1, Expires: now.Add(c.root)}, {Role: "targets", Version: 2, Expires: now.Add(c.targets)},
			{Role: "snapshot", Version: 3, Expires: now.Add(c.snapshot)}, {Role: "timestamp", Version: 4, Expires: now.Add(c.timestamp)},
		}, now)
		if !strings.HasPrefix(warning, c.want) || (c.want == "") != (first == nil && warning == "") {
			t.Errorf("%s: %v, %q", c.name, first, warning)
		}
		if first != nil && !strings.HasPrefix(warning, string(first.Role)+" ") {
			t.Errorf("%s: returns %s, and warns of %q", c.name, first.Role, warning)
		}
	}
}

// TestNotYet checks that a rollout to 25 % reaches the places 0 to 24 of 100.
func TestNotYet(t *testing.T) {
	r := &manifest.Rollout{Percent: 25}
	for place, waits := range map[int]bool{0: false, 24: false, 25: true, 99: true} {
		if got := NotYet(r, place); (got != "") != waits {
			t.Errorf("place %d: %q", place, got)
		}
	}
	if got := NotYet(nil, 99); got != "" {
		t.Errorf("without a rollout: %q", got)
	}
}

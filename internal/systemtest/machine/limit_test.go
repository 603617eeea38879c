package machine

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRaise shows that a limit is raised and never lowered.
func TestRaise(t *testing.T) {
	limit := filepath.Join(t.TempDir(), "limit")
	for now, want := range map[string]string{"128\n": "8192", "8191": "8192", "8192\n": "8192\n", "65536\n": "65536\n"} {
		if err := os.WriteFile(limit, []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := raise(limit, 8192); err != nil {
			t.Errorf("%q: %v", now, err)
		}
		if got, err := os.ReadFile(limit); string(got) != want || err != nil {
			t.Errorf("%q became %q, %v, want %q", now, got, err, want)
		}
	}
	if err := raise(filepath.Join(t.TempDir(), "none"), 1); err == nil {
		t.Error("a limit that is not there was raised")
	}
}

package installed

import (
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestVersionOfKilled: what a program printed before it was killed is not its version; a
// daemon that ignores the option logs times.
func TestVersionOfKilled(t *testing.T) {
	testkit.Slow(t)
	version := func(script string) string {
		return Version(t.Context(), &target.Target{Name: "agent", Health: target.Health{VersionCommand: []string{"/bin/sh", "-c", script}}}, state.Status{})
	}
	for script, want := range map[string]string{
		"echo app 1.2.3":                         "1.2.3",
		"echo app 1.2.3; exit 1":                 "1.2.3",
		"echo 18:45 took 40.230Z; exec sleep 60": "",
	} {
		if got := version(script); got != want {
			t.Errorf("%s: version %q, want %q", script, got, want)
		}
	}
}

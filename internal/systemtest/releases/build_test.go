package releases

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestBuild checks that a program says the version that it was stamped with, and that a
// text that does not fit is refused.
func TestBuild(t *testing.T) {
	for _, version := range []string{"1.0.0", "12.13.14-rc.1+build-18"} {
		content, err := Daemon{Version: version}.Build(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "testd")
		if err := os.WriteFile(path, content, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), path, "--version").Output(); err != nil || string(out) != "testd "+version+" (commit none)\n" {
			t.Errorf("%q, %v", out, err)
		}
	}
	if _, err := (Daemon{Version: strings.Repeat("1", 100)}).Build(t.Context()); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a version of 100 bytes: %v", err)
	}
}

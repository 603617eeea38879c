package internal_test

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestMakeInstalls: on a host of a normal user, a target of the Makefile installs the Debian
// packages that it needs, and none of another target's.
func TestMakeInstalls(t *testing.T) {
	lists := regexp.MustCompile(`missing=\$\(for p in ([^;]*); do`)
	build, machine := []string{"ca-certificates", "debhelper"}, []string{"mmdebstrap", "systemd-container"}
	for target, want := range map[string][]string{
		"build": nil, "quick": nil, "clean-all": nil,
		"deb":  build,
		"demo": append(slices.Clone(machine), build...),
	} {
		cmd := exec.Command("make", "--dry-run", "--no-print-directory", target)
		cmd.Dir, cmd.Env = "..", append(os.Environ(), "MAKEFLAGS=") // not those of the make that runs the tests
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("make --dry-run %s: %v", target, err)
		}
		var got []string
		for _, list := range lists.FindAllStringSubmatch(string(out), -1) {
			got = append(got, strings.Fields(list[1])...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("make %s installs %q, want %q", target, got, want)
		}
	}
}

package swap

import (
	"fmt"
	"os"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// TestOtherProgram: a version_command that runs a program which no update replaces says
// nothing about the release.
func TestOtherProgram(t *testing.T) {
	for _, c := range []struct {
		command string
		want    state.Result
		words   string
	}{
		{"'/usr/bin/agent', '--version'", state.ResultMisconfigured, "cannot tell the version of the new program: it says 1.0.0 instead of v2.0.0"},
		{"'/usr/bin/agent', '--version'", state.ResultMisconfigured, "(hint: health.version_command runs /usr/bin/agent, which no [[install]] replaces)"},
		{"'%[1]s', '--version'", state.ResultRefused, "the new program says 1.0.0 instead of v2.0.0"},
		{"'/usr/bin/env', '%[1]s', '--version'", state.ResultRefused, "the new program says 1.0.0 instead of v2.0.0"},
	} {
		r := newRig(t)
		command := c.command
		if c.want == state.ResultRefused {
			command = fmt.Sprintf(command, r.at("bin/agent"))
		}
		r.configure(t, "version_command = ["+command+"]\n")
		must(t, os.Chmod(r.at("bin/agent"), 0o755))
		r.sys.tried = systemd.SandboxResult{Output: "agent 1.0.0"}
		r.offer(t, "a1", "v2.0.0", 2, map[string]string{"agent": "agent 2", "agent.service": "unit 2"})
		r.fails(t, "swap", c.want, c.words)
	}
}

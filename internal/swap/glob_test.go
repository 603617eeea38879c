package swap

import (
	"os"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestGlob: a glob must match exactly one file of the manifest's contents, or, without
// contents, of what the verifier hands on.
func TestGlob(t *testing.T) {
	testkit.Slow(t)
	for name, row := range map[string]struct {
		entries  map[string]string
		contents bool
		err      string
	}{
		"one":                   {map[string]string{"agent-2/agent": "agent 2", "agent.service": "unit 2"}, true, ""},
		"one, no contents":      {map[string]string{"agent-2/agent": "agent 2", "agent.service": "unit 2"}, false, ""},
		"several":               {map[string]string{"agent-2/agent": "agent 2", "x/agent": "evil", "agent.service": "unit 2"}, true, "*/agent must match exactly one entry, and 2 match: agent-2/agent, x/agent"},
		"several, no contents":  {map[string]string{"agent-2/agent": "agent 2", "x/agent": "evil", "agent.service": "unit 2"}, false, "*/agent must match exactly one entry, and 2 match"},
		"none":                  {map[string]string{"agent": "agent 2", "agent.service": "unit 2"}, true, "cannot find */agent in the release"},
		"not deeper than it is": {map[string]string{"a/b/agent": "agent 2", "agent.service": "unit 2"}, true, "cannot find */agent in the release"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			file := r.at("targets/agent.toml")
			text, err := os.ReadFile(file)
			must(t, err)
			must(t, os.WriteFile(file, []byte(strings.Replace(string(text), `from = "agent"`, `from = "*/agent"`, 1)), 0o644))
			must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Origin: state.OriginOperator, Verb: state.VerbApply, Installed: "v1"}))
			must(t, look(r.tree, state.Baseline{Attempt: "a1", Standing: true}))
			r.spool(t, "a1", "v2", 2, row.entries, func(_ string, m *manifest.Manifest) {
				if p := m.Platforms[manifest.Host()]; !row.contents {
					p.Contents = nil
					m.Platforms[manifest.Host()] = p
				}
			})
			if row.err != "" {
				r.fails(t, "swap", state.ResultRefused, row.err)
				return
			}
			r.step(t, "swap")
			if got, err := os.ReadFile(r.at("bin/agent")); err != nil || string(got) != "agent 2" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

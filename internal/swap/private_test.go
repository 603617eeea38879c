package swap

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// public returns what all users can read of the records of agent.
func (r *rig) public(t *testing.T) string {
	t.Helper()
	names, err := filepath.Glob(r.at("var/swap/agent/*"))
	must(t, err)
	all := ""
	for _, name := range names {
		info, err := os.Stat(name)
		must(t, err)
		if info.Mode().Perm()&0o004 != 0 {
			content, err := os.ReadFile(name)
			must(t, err)
			all += string(content)
		}
	}
	return all
}

// TestGoingBackToASecret: no record for all users has a digest with which a guess of the
// content of a file could be verified that only some users may read, like the old
// bin/agent: neither its own, nor that of a release to which it belongs.
func TestGoingBackToASecret(t *testing.T) {
	testkit.Slow(t)
	for _, row := range []struct {
		name    string
		finding state.Finding
		missing bool // the file was removed before
	}{
		{"", state.FindingHealthy, false},
		{"the file is gone", state.FindingHealthy, true},
		{"the old release fails", state.FindingBad, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t)
			goBack(t, r)
			if row.missing {
				must(t, os.Remove(r.at("bin/agent")))
			}
			secrets := []string{sum("agent 1"), state.Fingerprint([]state.File{
				{To: r.at("bin/agent"), SHA256: sum("agent 1")}, {To: r.at("units/agent.service"), SHA256: sum("unit 1")}})}
			check := func(when string) {
				t.Helper()
				for i, secret := range secrets {
					if strings.Contains(r.public(t), secret) {
						t.Errorf("%s, all users can read digest %d", when, i)
					}
				}
			}
			check("before")
			r.step(t, "swap")
			check("in the trial")
			r.gate(t, "b1", row.finding, "it is bad")
			if row.finding == state.FindingHealthy {
				r.step(t, "commit")
			} else {
				r.step(t, "rollback")
				if st := r.status(t); st.Rejects(secrets[1], "", 1) == nil {
					t.Errorf("root does not see which release was rejected: %+v", st.Rejected)
				}
			}
			r.closed(t)
			check("after it")
		})
	}
}

package swap

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
)

// TestBackToUnknown checks that the operator can go back to the files before the first
// update, whose version is not known, and that every text says so.
func TestBackToUnknown(t *testing.T) {
	r := newRig(t)
	goBack(t, r)
	must(t, r.tree.Update(state.RoleSwap, "agent", func(st *state.Status) { st.Previous.Version = "" }))
	r.configure(t, fmt.Sprintf("version_command = [%q, '--version']\n", r.at("bin/agent")))
	for _, name := range []string{r.status(t).Previous.File(r.at("bin/agent")).Backup, r.at("bin/agent")} {
		must(t, os.Chmod(name, 0o755))
	}
	r.sys.tried.Output = "usage: agent" // the program does not support --version
	r.step(t, "swap")
	r.gate(t, "b1", state.FindingHealthy, "")
	r.step(t, "commit")
	r.ended(t, "b1", state.ResultCommitted, "the operator went back from v2 to the files of before, version unknown")
	if log := r.log.String(); !strings.Contains(log, "agent: attempt b1: the files of before, version unknown: committed\n") {
		t.Errorf("log: %s", log)
	}
	r.offer(t, "c1", "v2", 2, release2)
	r.fails(t, "swap", state.ResultNotAttempted, "the operator went back to the files of before, version unknown (hint: sudo machinemon-update unskip agent tries it again)")
}

package swap

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// durableStep is a system call that changes files of a machine in a way that outlives the
// swapper.
type durableStep = testkit.Step

// trace runs a step in a process of its own and kills it just before its n-th durable
// step, for n > 0. It returns the steps before that. Syncs count only for n == 0: a
// process that is killed loses nothing that it wrote.
func (r *rig) trace(t *testing.T, verb string, n int) (steps []durableStep, killed bool) {
	t.Helper()
	cmd := r.process(verb)
	cmd.Stderr = os.Stderr
	watch := testkit.WatchChanges
	if n == 0 {
		watch = testkit.WatchSyncs
	}
	steps, killed, end := testkit.Trace{Watch: watch, Counts: r.counts, At: n}.Run(t, cmd)
	if !killed && end.ExitStatus() != 0 {
		t.Fatalf("%s: exit status %d", verb, end.ExitStatus())
	}
	return steps, killed
}

// process returns a process that runs a step, and can be killed.
func (r *rig) process(verb string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{childEnv + "=" + verb + " " + r.dir}
	return cmd
}

// counts reports whether a step is of the machine's files. Of systemd's work only the final
// rename is.
func (r *rig) counts(s durableStep) bool {
	mine := strings.HasPrefix(s.Path, r.dir+"/") || strings.HasPrefix(s.Path, r.at("units"))
	machinery := strings.HasPrefix(s.Path, r.at("machine/")) && s.Call != "rename"
	return mine && !machinery
}

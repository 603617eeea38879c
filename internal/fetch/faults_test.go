package fetch

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// childEnv makes the test binary run as a fetcher: "VAR RUN URL".
const childEnv = "MACHINEMON_TEST_FETCHER"

// fetcher1 does what the program does, and returns its exit status.
func fetcher1(args string) int {
	words := strings.Fields(args)
	b := benchAt(words[0], words[1], words[2])
	if err := testkit.BeTraced(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	f, err := newFetcher(b.tree, "agent", func(int64, int64) {})
	if err != nil {
		log.Plain(os.Stderr).Error(err)
		return 1
	}
	f.limits, f.rootOnly, f.machineID = b.limits, b.rootOnly, filepath.Join(b.tree.Run, "machine-id")
	a, exit, err := f.carryOut(context.Background(), func(string) (*target.Target, error) { return b.target, nil })
	switch {
	case err != nil:
		log.Plain(os.Stderr).Error(err)
	case exit != 0:
		log.Plain(os.Stderr).Ended(a)
	}
	return exit
}

// TestFaults lets each system call of the fetcher fail. It hands on a whole bundle, or
// nothing and says so, and the next attempt succeeds.
func TestFaults(t *testing.T) {
	testkit.Slow(t)
	testkit.Faults(t, 6, []string{"EINTR rename partial", "EINTR symlink .next.link"}, func(t *testing.T) testkit.Worker {
		b := newBench(t, serve(t, newSite(t)))
		testkit.Must(t, b.tree.SetOrder("agent", b.order(state.VerbApply, "v1")))
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", childEnv, b.tree.Var, b.tree.Run, strings.TrimSuffix(b.target.Source.URL, "/client-manifest.json")))
		counts := func(s testkit.Step) bool { return strings.HasPrefix(s.Path, filepath.Dir(b.tree.Var)+"/") }
		return testkit.Worker{Process: cmd, Watch: testkit.WatchReads, Counts: counts, Check: func(t *testing.T, f testkit.Fault) { b.check(t, f) }}
	})
}

func (b *bench) check(t *testing.T, f testkit.Fault) {
	if f.Exit != 0 && f.Exit != 1 || f.Exit != 0 && f.Errno == unix.EINTR && f.Step.Call != "close" {
		t.Errorf("its exit status is %d", f.Exit)
	}
	handedOn := slices.Contains(b.spool(t), attempt)
	if handedOn || f.Exit == 0 { // it can be handed on, and not be recorded
		b.whole(t, "after the fault")
	}
	for _, a := range b.status(t).Attempts {
		if (a.Result == state.ResultHandedOn) != handedOn || !handedOn && a.Result.Exit() != f.Exit {
			t.Errorf("it ended with %d, and recorded %+v", f.Exit, a)
		}
	}
	testkit.Must(t, os.RemoveAll(filepath.Join(b.tree.Ready(state.RoleFetch, "agent"), attempt))) // as the verifier does
	if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultHandedOn {
		t.Errorf("the next attempt: %+v", a)
	}
	b.whole(t, "after the next attempt")
}

// whole checks that the bundle that is handed on is complete.
func (b *bench) whole(t *testing.T, when string) {
	t.Helper()
	if got := b.spool(t); !slices.Equal(got, []string{attempt}) {
		t.Fatalf("%s, in the spool: %q", when, got)
	}
	for name, want := range map[string]string{
		"payload": string(payload), "manifest.json": string(marshal(t, release1())), "receipt.json": `{"attempt":"` + attempt + `","platform":"` + manifest.Host() + `"}`,
	} {
		if got, err := os.ReadFile(filepath.Join(b.tree.Ready(state.RoleFetch, "agent"), attempt, name)); err != nil || string(got) != want {
			t.Errorf("%s, %s: %.80q, %v", when, name, got, err)
		}
	}
}

package verify

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// childEnv makes the test binary run as a verifier of the machine below this directory.
const childEnv = "MACHINEMON_TEST_VERIFIER"

func TestMain(m *testing.M) {
	if root := os.Getenv(childEnv); root != "" {
		os.Exit(verifier1(root))
	}
	os.Exit(m.Run())
}

// verifier1 does what the program does, and returns its exit status.
func verifier1(root string) int {
	if err := testkit.BeTraced(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	b := benchAt(root)
	a, asked, err := run(b.tree, "agent", func() (*target.Target, error) { return b.target, nil })
	switch {
	case err != nil:
		log.Plain(os.Stderr).Error(err)
		return 1
	case asked != nil:
		fmt.Fprintln(os.Stderr, asked.Reason)
		return 1
	case a.ID != "" && a.Result != state.ResultHandedOn:
		log.Plain(os.Stderr).Ended(a)
		return a.Result.Exit()
	}
	return 0
}

// TestFaults lets each system call of the verifier fail. It hands on a whole tree, or
// nothing and says so; the bundle triggers nothing again; and the next bundle is verified.
func TestFaults(t *testing.T) {
	testkit.Faults(t, 6, []string{"EIO open receipt.json", "EINTR rename " + attempt, "EINTR symlink .next.link"}, func(t *testing.T) testkit.Worker {
		b := newBench(t)
		b.hand(t)
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{childEnv + "=" + b.root}
		counts := func(s testkit.Step) bool { return strings.HasPrefix(s.Path, b.root+"/") }
		return testkit.Worker{Process: cmd, Watch: testkit.WatchReads, Counts: counts, Check: func(t *testing.T, f testkit.Fault) { b.check(t, f) }}
	})
}

func (b *bench) check(t *testing.T, f testkit.Fault) {
	if f.Exit > 1 && (f.Exit != 6 || f.Errno != unix.EACCES) || f.Exit != 0 && f.Errno == unix.EINTR && f.Step.Call != "close" {
		t.Errorf("its exit status is %d", f.Exit)
	}
	handedOn := slices.Contains(ls(t, b.out()), attempt)
	if handedOn || f.Exit == 0 { // it can be handed on, and not be recorded
		b.whole(t, "after the fault")
	}
	st, err := b.tree.Status(state.RoleVerify, "agent")
	testkit.Must(t, err)
	for _, a := range st.Attempts {
		if (a.Result == state.ResultHandedOn) != handedOn || !handedOn && a.Result.Exit() != f.Exit {
			t.Errorf("it ended with %d, and recorded %+v", f.Exit, a)
		}
	}
	if pending, err := b.tree.Pending(state.RoleFetch, "agent"); err != nil || pending {
		t.Errorf("the bundle would start the verifier again: %v", err)
	}
	testkit.Must(t, os.RemoveAll(filepath.Join(b.out(), attempt))) // as the swapper does, or root before the next attempt
	b.hand(t)
	if a := b.run(t); a.Result != state.ResultHandedOn {
		t.Errorf("the next attempt: %+v", a)
	}
	b.whole(t, "after the next attempt")
	if left := ls(t, b.in()); len(left) != 0 {
		t.Errorf("not consumed: %v", left)
	}
}

// whole checks that the tree that is handed on is complete.
func (b *bench) whole(t *testing.T, when string) {
	t.Helper()
	if got := ls(t, b.out()); !slices.Equal(got, []string{".next.link", attempt}) {
		t.Fatalf("%s, in the spool: %q", when, got)
	}
	entry, err := os.OpenRoot(filepath.Join(b.out(), attempt))
	testkit.Must(t, err)
	defer entry.Close()
	receipt, err := (&state.Bundle{Root: entry}).Receipt()
	if err != nil || len(receipt.Files) != 2 {
		t.Fatalf("%s: %+v, %v", when, receipt, err)
	}
	for _, f := range receipt.Files {
		if got, err := entry.ReadFile(f.Name); err != nil || string(got) != b.bundle.content[f.Entry] {
			t.Errorf("%s: %s: %q, %v", when, f.Entry, got, err)
		}
	}
	if got, err := entry.ReadFile(state.ManifestName); err != nil || string(got) != string(b.bundle.raw) {
		t.Errorf("%s: manifest: %q, %v", when, got, err)
	}
}

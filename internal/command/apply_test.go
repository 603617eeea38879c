package command

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

func TestSummary(t *testing.T) {
	for _, c := range []struct {
		at   state.Attempt
		want string
	}{
		{state.Attempt{Result: state.ResultCommitted, Version: "1.1.0", From: "1.0.0"}, "agent: committed 1.1.0 (was 1.0.0) in 3.3 s"},
		{state.Attempt{Result: state.ResultCommitted, Version: "1.1.0", From: "1.0.0", NoDelta: "cannot read it"}, "agent: committed 1.1.0 (was 1.0.0) in 3.3 s (not by delta: cannot read it)"},
		{state.Attempt{Result: state.ResultCommitted, Version: "1.1.0"}, "agent: committed 1.1.0 (the version before is unknown) in 3.3 s"},
		{state.Attempt{Result: state.ResultUnproven, Version: "1.1.0", From: "1.0.0"}, "agent: committed unproven 1.1.0 (was 1.0.0) in 3.3 s"},
		{state.Attempt{Result: state.ResultCurrent, Version: "v1.1.0", From: "1.1.0"}, "agent: already current (v1.1.0)"},
		{state.Attempt{Result: state.ResultAdopted, Version: "1.1.0"}, "agent: adopted 1.1.0"},
		{state.Attempt{Result: state.ResultAvailable, Version: "1.1.0", From: "1.0.0"}, "agent: available 1.1.0 (installed: 1.0.0)"},
		{state.Attempt{Result: state.ResultAvailable, Version: "1.1.0"}, "agent: available 1.1.0 (installed: unknown)"},
		{state.Attempt{Result: state.ResultRolledBack, Version: "1.1.0", From: "1.0.0", Reason: "it died", Healthy: true}, "agent: rolled back 1.1.0: it died (1.0.0 runs again)"},
		{state.Attempt{Result: state.ResultRolledBack, Version: "1.1.0", Reason: "it died", Healthy: true}, "agent: rolled back 1.1.0: it died (what ran before runs again)"},
		{state.Attempt{Result: state.ResultRolledBack, Version: "1.1.0", From: "1.0.0", Reason: "it died", Unhealthy: "it is not active"}, "agent: rolled back 1.1.0: it died (1.0.0 is back, but is not healthy: it is not active)"},
		{state.Attempt{Result: state.ResultRolledBack, Version: "1.1.0", Reason: "it died; not rejected: the old version is not healthy either: it is not active", Unhealthy: "it is not active"},
			"agent: rolled back 1.1.0: it died; not rejected: the old version is not healthy either: it is not active (what ran before is back, but is not healthy)"},
		{state.Attempt{Result: state.ResultInterrupted, Version: "1.1.0", From: "1.0.0", Reason: "it was killed"}, "agent: interrupted 1.1.0: it was killed (the files of 1.0.0 are in place)"},
		{state.Attempt{Result: state.ResultInterrupted, Version: "1.1.0", Reason: "it was killed"}, "agent: interrupted 1.1.0: it was killed (the files of before are in place)"},
		{state.Attempt{Result: state.ResultInterrupted, Version: "1.1.0", From: "1.0.0", Reason: "the trial was cut short", Healthy: true}, "agent: interrupted 1.1.0: the trial was cut short (1.0.0 runs again)"},
		{state.Attempt{Result: state.ResultRollbackFailed, Version: "1.1.0", Reason: "it died; the rollback failed: no space left on device"},
			"agent: rollback failed 1.1.0: it died; the rollback failed: no space left on device (hint: see systemctl status, then sudo machinemon-update settle agent back: roll back once more; or settle agent keep: keep what is installed now)"},
		{state.Attempt{Result: state.ResultRefused, Version: "1.1.0", Reason: "no"}, "agent: refused 1.1.0: no"},
		{state.Attempt{Result: state.ResultNotDownloaded, Reason: "no"}, "agent: not downloaded: no"},
		{state.Attempt{Result: state.ResultNotAttempted, Version: "1.1.0", Reason: "it was rejected"}, "agent: not attempted 1.1.0: it was rejected"},
		{state.Attempt{Result: state.ResultMisconfigured, Reason: "no"}, "agent: misconfigured: no"},
		{state.Attempt{Result: state.ResultFailed, Reason: "no"}, "agent: failed: no"},
	} {
		if got := summary("agent", c.at, 3300*time.Millisecond); got != c.want {
			t.Errorf("%s\nwant %s", got, c.want)
		}
	}
}

// TestWorst: the contract's order, worst first, is 5, 4, 6, 7, 1, 2, 8, 3, 0. 130 exceeds
// all: after Ctrl-C the end is not known.
func TestWorst(t *testing.T) {
	order := []int{130, 5, 4, 6, 7, 1, 2, 8, 3, 0}
	for i, worse := range order {
		for _, better := range order[i:] {
			for _, two := range [][]int{{worse, better}, {better, worse}} {
				a := &app{}
				for _, exit := range two {
					a.worst(exit)
				}
				if a.exit != worse {
					t.Errorf("the worst of %v is %d, want %d", two, a.exit, worse)
				}
			}
		}
	}
}

// newApp returns a machine with these targets, and the output of its command.
func newApp(t *testing.T, names ...string) (a *app, out, progress *strings.Builder) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "admin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, "admin", n+".toml"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, progress = &strings.Builder{}, &strings.Builder{}
	return &app{
		tree:    state.Tree{Var: filepath.Join(dir, "var"), Run: filepath.Join(dir, "run")},
		targets: target.Dirs{Root: dir, Vendor: "/vendor", Admin: "/admin"}, out: out, err: progress, clock: clockSynchronised,
	}, out, progress
}

// TestUmbrellaStatus: systemctl status machinemon-update.service shows the target that failed.
func TestUmbrellaStatus(t *testing.T) {
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unixgram"})
	ok(t, err)
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", socket.LocalAddr().String())
	a, _, _ := newApp(t, "a", "b", "c")
	ok(t, a.each(nil, func(_ context.Context, name string) (state.Attempt, error) {
		if name == "b" {
			return state.Attempt{Result: state.ResultRefused, Version: "2.0", Reason: "it is too large"}, nil
		}
		return state.Attempt{Result: state.ResultCurrent, Version: "1.0"}, nil
	}))
	ok(t, socket.SetReadDeadline(time.Now().Add(10*time.Second)))
	message := make([]byte, 4096)
	n, err := socket.Read(message)
	ok(t, err)
	if got, want := string(message[:n]), "STATUS=b: refused 2.0: it is too large"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestTwoCommands: a second command on the same target ends before it asks the chain for
// an attempt; so does root's check.
func TestTwoCommands(t *testing.T) {
	a, out, progress := newApp(t, "agent")
	a.root = true
	if err := os.MkdirAll(filepath.Join(a.tree.Run, "lock"), 0o755); err != nil {
		t.Fatal(err)
	}
	unlock, err := a.tree.LockOperator("agent")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	const want = "agent: not attempted: another machinemon-update is at work on it\n"
	for _, verb := range []string{"apply", "check", "rollback"} {
		out.Reset()
		a.exit = 0
		if exit := a.main([]string{verb, "agent"}, ""); exit != 8 || out.String() != want || progress.Len() > 0 {
			t.Errorf("%s: exit status %d: %s%s", verb, exit, out, progress)
		}
	}
	if _, err := os.Stat(filepath.Join(a.tree.Run, "request")); !os.IsNotExist(err) {
		t.Errorf("a request was left: %v", err)
	}
	if at, err := a.attempt(t.Context(), "agent", state.Request{Verb: state.VerbApply}, nil); state.ResultOf(err) != state.ResultNotAttempted || at.Time.IsZero() {
		t.Errorf("%+v, %v", at, err)
	}
}

// TestLeave: Ctrl-C ends the command but not the attempt that the chain makes; no further
// target is begun, and the results so far are printed.
func TestLeave(t *testing.T) {
	for _, c := range []struct {
		name, progress string
		err            error
		out            []string
	}{
		{"in the middle", "b: detached\n", errors.New("detached"), []string{`"target": "a"`}},
		{"at the end of an attempt", "", nil, []string{`"target": "a"`, `"target": "b"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, out, progress := newApp(t, "a", "b", "c")
			a.json = true
			var begun []string
			err := a.each(nil, func(ctx context.Context, name string) (state.Attempt, error) {
				begun = append(begun, name)
				if name == "b" {
					if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
						t.Fatal(err)
					}
					<-ctx.Done()
					return state.Attempt{}, c.err
				}
				return state.Attempt{Result: state.ResultCommitted}, nil
			})
			if err != nil || a.exit != 130 || !slices.Equal(begun, []string{"a", "b"}) || progress.String() != c.progress {
				t.Errorf("exit status %d, %v; begun %q; %s", a.exit, err, begun, progress)
			}
			if got := regexp.MustCompile(`"target": "."`).FindAllString(out.String(), -1); !slices.Equal(got, c.out) {
				t.Errorf("told of %q, want %q", got, c.out)
			}
		})
	}
}

// TestFailed: after an attempt that ends with an error, the next target is tried.
func TestFailed(t *testing.T) {
	a, out, _ := newApp(t, "a", "b")
	err := a.each(nil, func(_ context.Context, name string) (state.Attempt, error) {
		if name == "a" {
			return state.Attempt{ID: attempt}, errors.New("cannot start it: no bus")
		}
		return state.Attempt{Result: state.ResultCurrent, Version: "1.1.0"}, nil
	})
	if want := "a: failed: cannot start it: no bus\nb: already current (1.1.0)\n"; err != nil || a.exit != 1 || out.String() != want {
		t.Errorf("exit status %d, %v\n%s", a.exit, err, out)
	}
}

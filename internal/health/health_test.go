package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// fake is a systemd with one unit that never changes.
type fake struct {
	unit systemd.Unit
	err  error
}

func (f fake) Unit(context.Context, string) (systemd.Unit, error) { return f.unit, f.err }
func (f fake) Changes() <-chan struct{}                           { return nil }
func (f fake) Close()                                             {}

func running(pid int) systemd.Unit {
	u := up.Unit
	u.MainPID = uint32(pid)
	return u
}

func TestLook(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	// A program that was replaced while it runs, as by a swap without a restart.
	replaced := filepath.Join(t.TempDir(), "sleep")
	copyOf := func(from string) {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(replaced+".tmp", data, 0o755)
		}
		if err == nil {
			err = os.Rename(replaced+".tmp", replaced)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	copyOf("/bin/sleep")
	sleep := exec.Command(replaced, "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleep.Wait()
	defer sleep.Process.Kill()
	copyOf("/bin/true")
	gone := exec.Command("/bin/true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}

	for _, c := range []struct {
		name    string
		unit    systemd.Unit
		main    string
		foreign string
		err     string
	}{
		{name: "the very file", unit: running(os.Getpid()), main: self},
		{name: "by a link", unit: running(os.Getpid()), main: link},
		{name: "any", unit: running(os.Getpid())},
		{name: "another", unit: running(os.Getpid()), main: "/bin/sh", foreign: "its main process runs " + self + ", not /bin/sh"},
		{name: "an older one", unit: running(sleep.Process.Pid), main: replaced, foreign: "its main process still runs an older " + replaced},
		{name: "not active", unit: failed.Unit, main: self},
		{name: "gone", unit: running(gone.Process.Pid), main: self, err: errVanished.Error()},
		{name: "no such file", unit: running(os.Getpid()), main: "/nonexistent", err: "cannot compare"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := look(t.Context(), fake{unit: c.unit}, "x.service", c.main)
			if s.foreign != c.foreign {
				t.Errorf("foreign: %q, want %q", s.foreign, c.foreign)
			}
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
}

// bench is a machine with one target, whose main process is this test.
type bench struct {
	Gate
	self string
	port string
}

func newBench(t *testing.T, m manager, probe bool) bench {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := bench{self: self, port: l.Addr().String()}
	if probe {
		t.Cleanup(func() { l.Close() })
	} else {
		l.Close()
	}
	tree := state.Tree{Var: filepath.Join(dir, "var"), Run: filepath.Join(dir, "run")}
	for _, d := range []string{tree.Dir(state.Swap, "x"), tree.Gate("x"), filepath.Join(tree.Run, "attempt"), filepath.Join(dir, "etc")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf("unit = \"x.service\"\n[[install]]\nfrom = \"x\"\nto = \"/opt/x\"\n[health]\nmain = \"\"\n[[health.probe]]\ntcp = %q\n", b.port)
	if err := os.WriteFile(filepath.Join(dir, "etc", "x.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	b.Gate = NewGate(tree, target.Dirs{Root: dir, Vendor: "/usr", Admin: "/etc"}, log.Plain(io.Discard))
	b.connect = func(context.Context, string) (manager, error) {
		if m == nil {
			return nil, errors.New("systemd does not answer")
		}
		return m, nil
	}
	if err := tree.SetOrder("x", state.Order{Attempt: "ordered"}); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b bench) open(t *testing.T, phase state.Phase, v state.Verdict) {
	t.Helper()
	if err := b.tree.SetJournal(&state.Journal{Attempt: "tried", Target: "x", Unit: "x.service", Main: b.self,
		Version: "2", Phase: phase, Verdict: v, Timeout: 300 * ms, Settle: 10 * ms}); err != nil {
		t.Fatal(err)
	}
}

func TestJudge(t *testing.T) {
	self := fake{unit: running(os.Getpid())}
	late := running(os.Getpid())
	late.Began = time.Second // after the boot: longer ago than the limit
	for _, c := range []struct {
		name     string
		systemd  manager
		listens  bool
		before   *state.Baseline
		finding  state.Finding
		unproven bool
	}{
		{"healthy", self, true, nil, state.Healthy, false},
		{"bad without a baseline", self, false, nil, state.Bad, false},
		{"bad, as it passed before", self, false, &state.Baseline{Attempt: "tried", Standing: true, Probes: []state.ProbeResult{{Passed: true}}}, state.Bad, false},
		{"not blamed", self, false, &state.Baseline{Attempt: "tried", Standing: true, Probes: []state.ProbeResult{{}}}, state.Healthy, true},
		{"another attempt's baseline", self, false, &state.Baseline{Attempt: "other", Standing: true, Probes: []state.ProbeResult{{}}}, state.Bad, false},
		{"crashed", fake{unit: crashed.Unit}, true, nil, state.Bad, false},
		{"no systemd", nil, true, nil, state.Unsure, false},
		{"the start took the whole limit", fake{unit: late}, true, nil, state.Bad, false},
		{"systemd lost", fake{err: errors.New("systemd does not answer")}, true, nil, state.Unsure, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, c.systemd, c.listens)
			b.open(t, state.Trial, "")
			if c.before != nil {
				c.before.Probes[0].Probe = "tcp " + b.port
				if err := b.tree.SetBaseline("x", *c.before, false); err != nil {
					t.Fatal(err)
				}
			}
			r, err := b.Judge(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			if r.Finding != c.finding || r.Unproven != c.unproven || (r.Reason == "") != (c.finding == state.Healthy) {
				t.Errorf("report %+v, want %q", r, c.finding)
			}
			if c.finding == state.Healthy && r.MainPID != uint32(os.Getpid()) {
				t.Errorf("main process %d", r.MainPID)
			}
			onDisk, err := b.tree.Report("x", "tried")
			if err != nil || onDisk == nil || onDisk.Finding != c.finding {
				t.Errorf("on disk: %+v, %v", onDisk, err)
			}
		})
	}
}

// Without an open, undecided trial there is nothing to judge, and a report
// would be a lie.
func TestNothingToJudge(t *testing.T) {
	for _, c := range []struct {
		phase   state.Phase
		verdict state.Verdict
	}{{"", ""}, {state.Prepared, ""}, {state.Trial, state.Commit}, {state.Trial, state.Rollback}} {
		b := newBench(t, fake{unit: running(os.Getpid())}, true)
		if c.phase != "" {
			b.open(t, c.phase, c.verdict)
		}
		r, err := b.Judge(t.Context(), "x")
		if r != nil || err != nil {
			t.Errorf("%v: %+v, %v", c, r, err)
		}
		if r, err := b.tree.Report("x", "tried"); r != nil || err != nil {
			t.Errorf("%v: on disk: %+v, %v", c, r, err)
		}
	}
}

// A program that cannot read what it judges by leaves no report.
func TestNoReport(t *testing.T) {
	b := newBench(t, fake{unit: running(os.Getpid())}, true)
	b.open(t, state.Trial, "")
	if err := os.WriteFile(filepath.Join(b.dirs.Root, "etc", "x.toml"), []byte("unit = 7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err := b.Judge(t.Context(), "x"); r != nil || err == nil {
		t.Errorf("broken target file: %+v, %v", r, err)
	}
	if _, err := b.Baseline(t.Context(), "x"); err == nil {
		t.Error("baseline: broken target file: no error")
	}
	if r, err := b.tree.Report("x", "tried"); r != nil || err != nil {
		t.Errorf("on disk: %+v, %v", r, err)
	}
}

// The order was taken already: a swap that systemd started twice.
func TestBaselineWithoutAttempt(t *testing.T) {
	b := newBench(t, fake{unit: running(os.Getpid())}, true)
	if _, err := b.tree.TakeOrder("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Baseline(t.Context(), "x"); !errors.Is(err, ErrNoAttempt) {
		t.Errorf("got %v", err)
	}
}

func TestBaseline(t *testing.T) {
	self := fake{unit: running(os.Getpid())}
	for _, c := range []struct {
		name     string
		systemd  manager
		listens  bool
		verdict  state.Verdict // of the open journal; "" without one
		excused  bool          // the probe failed before
		standing bool
		passed   bool
		most     time.Duration
	}{
		{"before, healthy", self, true, "", false, true, true, time.Second},
		{"before, does not listen", self, false, "", false, true, false, 3 * time.Second},
		{"before, crash loop", fake{unit: crashed.Unit}, true, "", false, false, false, time.Second},
		{"after, healthy", self, true, state.Rollback, false, true, true, time.Second},
		{"after, does not listen", self, false, state.Rollback, false, true, false, time.Second},
		{"after, does not listen, nor before", self, false, state.Rollback, true, true, false, 200 * ms},
		{"after, down", fake{unit: failed.Unit}, true, state.Rollback, false, false, false, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, c.systemd, c.listens)
			attempt, after := "ordered", c.verdict != ""
			if after {
				attempt = "tried"
				b.open(t, state.Trial, c.verdict)
				before := state.Baseline{Attempt: "tried", Standing: true, Probes: []state.ProbeResult{{Probe: "tcp " + b.port, Passed: !c.excused}}}
				if err := b.tree.SetBaseline("x", before, false); err != nil {
					t.Fatal(err)
				}
			}
			begin := time.Now()
			if _, err := b.Baseline(t.Context(), "x"); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took > c.most {
				t.Errorf("took %s", took)
			}
			got, err := b.tree.Baseline("x", attempt, after)
			if err != nil || got == nil {
				t.Fatalf("on disk: %v, %v", got, err)
			}
			if got.Standing != c.standing || (got.Detail == "") != c.standing || len(got.Probes) != 1 || got.Probes[0].Passed != c.passed {
				t.Errorf("baseline %+v", got)
			}
		})
	}
}

// What is written before the swap must be recognised in the trial, and after
// the rollback: a health.main that is wrong is no fault of the release, and no
// failure of the rollback.
func TestWrongMain(t *testing.T) {
	b := newBench(t, fake{unit: running(os.Getpid())}, true)
	file := filepath.Join(b.dirs.Root, "etc", "x.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.ReplaceAll(strings.ReplaceAll(string(text), "/opt/x", "/bin/sh"), "main = \"\"\n", ""))
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := b.tree.SetOrder("x", state.Order{Attempt: "tried"}); err != nil {
		t.Fatal(err)
	}
	before, err := b.Baseline(t.Context(), "x")
	if err != nil || before.Standing || !before.Probes[0].Passed {
		t.Fatalf("before: %+v, %v", before, err)
	}
	b.self = "/bin/sh"
	b.open(t, state.Trial, "")
	r, err := b.Judge(t.Context(), "x")
	if err != nil || r.Finding != state.Unsure || !strings.HasSuffix(r.Reason, "set health.main") {
		t.Fatalf("report: %+v, %v", r, err)
	}
	b.open(t, state.Trial, state.Rollback)
	after, err := b.Baseline(t.Context(), "x")
	if err != nil || !after.Standing || !after.Probes[0].Passed {
		t.Fatalf("after: %+v, %v", after, err)
	}
}

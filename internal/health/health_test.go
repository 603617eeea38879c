package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// fake is a systemd with one unit that never changes.
type fake struct {
	unit systemd.Unit
	err  error
	pids []int // of its control group; if nil, asking for them is an error
	// swaps are the states of the swap's unit, in turn; it is inactive after that.
	swaps *[]string
}

func (f fake) Unit(_ context.Context, name string) (systemd.Unit, error) {
	if strings.HasPrefix(name, "machinemon-swap@") {
		return systemd.Unit{Name: name, Active: f.swap()}, f.err
	}
	f.unit.Name = name
	return f.unit, f.err
}

// swap returns the state of the swap's unit, and changes it at each call.
func (f fake) swap() (active string) {
	if f.swaps == nil || len(*f.swaps) == 0 {
		return "inactive"
	}
	active, *f.swaps = (*f.swaps)[0], (*f.swaps)[1:]
	return active
}
func (f fake) Processes(context.Context, string) ([]int, error) {
	if f.pids == nil {
		return nil, errors.New("cannot list the processes")
	}
	return f.pids, nil
}
func (f fake) Alive(context.Context, ...string) ([]string, error) { return nil, nil }
func (f fake) Changes() <-chan struct{} {
	if f.swaps == nil {
		return nil
	}
	more := make(chan struct{}, 1)
	more <- struct{}{}
	return more
}
func (f fake) Close() {}

func running(pid int) systemd.Unit {
	u := up.Unit
	u.MainPID = uint32(pid)
	return u
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
	for _, d := range []string{tree.Dir(state.RoleSwap, "x"), filepath.Join(tree.Run, "baseline"), filepath.Join(tree.Run, "command"), filepath.Join(tree.Run, "attempt"), filepath.Join(dir, "etc")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf("unit = \"x.service\"\n[[install]]\nfrom = \"x\"\nto = \"/opt/x\"\n[health]\nmain = \"\"\n[[health.probe]]\ntcp = %q\nforeign = true\n", b.port)
	if err := os.WriteFile(filepath.Join(dir, "etc", "x.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	dirs := target.Dirs{Root: dir, Vendor: "/usr", Admin: "/etc"}
	if b.Gate, err = NewGate(tree, dirs, log.Plain(io.Discard)); err != nil {
		t.Fatal(err)
	}
	// As the unit does, this reads the target file when a client comes.
	go testkit.Answer(listenFor(t, tree.Commands("x")), func(c net.Conn) {
		if x, err := dirs.Load("x"); err != nil {
			t.Error(err)
		} else {
			serveCommands(context.Background(), c, x.Health)
		}
	})
	b.connect = func(context.Context, ...string) (manager, error) {
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
	before := func(attempt state.AttemptID, r state.ProbeResult) *state.Baseline {
		return &state.Baseline{Attempt: attempt, Standing: true, Probes: []state.ProbeResult{r}}
	}
	late := running(os.Getpid())
	late.Began = time.Second // after the boot, which is longer ago than the limit
	for _, c := range []struct {
		name     string
		systemd  manager
		listens  bool
		before   *state.Baseline
		passed   bool // on this machine, according to root's journal
		finding  state.Finding
		unproven bool
	}{
		{"healthy", self, true, nil, false, state.FindingHealthy, false},
		{"bad without a baseline", self, false, nil, false, state.FindingBad, false},
		{"bad, as it passed before", self, false, before("tried", state.ProbeResult{Passed: true}), false, state.FindingBad, false},
		{"not blamed, as it never passed", self, false, before("tried", state.ProbeResult{}), false, state.FindingHealthy, true},
		{"passes at last", self, true, before("tried", state.ProbeResult{}), false, state.FindingHealthy, false},
		{"ill before, and no cure", self, false, before("tried", state.ProbeResult{}), true, state.FindingBad, false},
		{"ill before, and cured", self, true, before("tried", state.ProbeResult{}), true, state.FindingHealthy, false},
		{"no answer before is no failure", self, false, before("tried", state.ProbeResult{Unknown: true}), false, state.FindingBad, false},
		{"another attempt's baseline", self, false, before("other", state.ProbeResult{}), false, state.FindingBad, false},
		{"crashed", fake{unit: crashed.Unit}, true, nil, false, state.FindingBad, false},
		{"no systemd", nil, true, nil, false, state.FindingUnsure, false},
		{"the swap took longer than the limit", fake{unit: late}, true, nil, false, state.FindingHealthy, false},
		{"the swap took longer than the limit, and no probe passes", fake{unit: late}, false, nil, false, state.FindingBad, false},
		{"systemd lost", fake{err: errors.New("systemd does not answer")}, true, nil, false, state.FindingUnsure, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, c.systemd, c.listens)
			b.open(t, state.PhaseTrial, "")
			key := target.Probe{TCP: b.port, Foreign: true}.Key()
			if c.passed {
				j, err := b.tree.Journal("x")
				if err != nil {
					t.Fatal(err)
				}
				j.Probes = state.Passed{key: time.Now()}
				if err := b.tree.SetJournal(j); err != nil {
					t.Fatal(err)
				}
			}
			if c.before != nil {
				c.before.Probes[0].Probe = "tcp " + b.port
				if err := b.tree.SetBaseline("x", *c.before); err != nil {
					t.Fatal(err)
				}
			}
			r, err := b.Judge(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			if b.log.Attempt != "tried" || b.log.Version != "2" {
				t.Errorf("the log is of attempt %q, version %q", b.log.Attempt, b.log.Version)
			}
			if r.Finding != c.finding || r.Unproven != c.unproven || (r.Reason == "") != (c.finding == state.FindingHealthy && !c.unproven) {
				t.Errorf("report %+v, want %q", r, c.finding)
			}
			if why := "tcp " + b.port + ": connection refused (hint: sudo machinemon-update probe x)"; c.unproven && !strings.HasSuffix(r.Reason, why) {
				t.Errorf("the reason %q does not end with %q", r.Reason, why)
			}
			if c.finding == state.FindingHealthy && (r.MainPID != uint32(os.Getpid()) || len(r.Probes) != 1 || r.Probes[0].Key != key || r.Probes[0].Passed == c.unproven) {
				t.Errorf("report %+v", r)
			}
		})
	}
}

// TestStopped: a stop by systemctl ends the main process by SIGTERM, too, but only after the
// unit has stopped being active. doctor and probe then speak of no other process.
func TestStopped(t *testing.T) {
	for left, want := range map[time.Duration]string{
		2: "another program or the operator stopped it",
		3: "another process ended its main process by SIGTERM",
	} {
		s := unit("inactive", "dead", 0).exited("success", systemd.Killed, 15)
		s.MainBegan, s.Left, s.MainEnded = 1, left, 3
		if how, why := s.classify(); how != standingInterrupted || why != want {
			t.Errorf("left at %d: %d: %s", left, how, why)
		}
	}
}

// TestExcuse shows that a failure before the swap excuses only the probe that failed, as the
// target file has it now.
func TestExcuse(t *testing.T) {
	for _, c := range []struct {
		name    string
		before  *state.Baseline
		excused bool
	}{
		{"no baseline", nil, false},
		{"it failed", &state.Baseline{Probes: []state.ProbeResult{{Probe: "a"}}}, true},
		{"it passed", &state.Baseline{Probes: []state.ProbeResult{{Probe: "a", Passed: true}}}, false},
		{"another one failed in its place", &state.Baseline{Probes: []state.ProbeResult{{Probe: "b"}}}, false},
		{"it failed, and so did one that is gone", &state.Baseline{Probes: []state.ProbeResult{{Probe: "a"}, {Probe: "b"}}}, true},
	} {
		p := plan{probes: []prober{{name: "a", key: "a"}}}
		p.excuse(c.before, nil)
		if p.probes[0].excused != c.excused {
			t.Errorf("%s: excused %v", c.name, p.probes[0].excused)
		}
	}
}

// TestVerdict checks what the log says of a report.
func TestVerdict(t *testing.T) {
	for want, r := range map[string]state.Report{
		"healthy":              {Finding: state.FindingHealthy},
		"healthy, unproven: x": {Finding: state.FindingHealthy, Unproven: true, Reason: "x"},
		"bad: x":               {Finding: state.FindingBad, Reason: "x"},
	} {
		if got := Verdict(r); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	b := state.Baseline{Detail: "it is stopped", Probes: []state.ProbeResult{{Passed: true}, {}, {}}}
	if got, want := Summary(b), "1 of 3 probes pass; the unit is not as it must be: it is stopped"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestJudgeContested shows that a trial is not bad if another program has the address of
// its probe.
func TestJudgeContested(t *testing.T) {
	b := newBench(t, fake{unit: running(os.Getpid())}, false)
	address := bound(t, unix.AF_INET, false)
	file := filepath.Join(b.dirs.Root, "etc", "x.toml")
	text, err := os.ReadFile(file)
	testkit.Must(t, err)
	testkit.Put(t, file, strings.NewReplacer(b.port, address, "foreign = true\n", "").Replace(string(text)))
	b.open(t, state.PhaseTrial, "")
	j, err := b.tree.Journal("x")
	testkit.Must(t, err)
	j.Timeout = 100 * ms
	testkit.Must(t, b.tree.SetJournal(j))
	r, err := b.Judge(t.Context(), "x")
	if err != nil || r.Finding != state.FindingUnsure || !strings.Contains(r.Reason, "another program than x.service has the address "+address) {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestNothingToJudge shows that without an open, undecided trial no report is written; it
// would be false.
func TestNothingToJudge(t *testing.T) {
	for _, c := range []struct {
		phase   state.Phase
		verdict state.Verdict
	}{{"", ""}, {state.PhasePrepared, ""}, {state.PhaseTrial, state.VerdictCommit}, {state.PhaseTrial, state.VerdictRollback}} {
		b := newBench(t, fake{unit: running(os.Getpid())}, true)
		if c.phase != "" {
			b.open(t, c.phase, c.verdict)
		}
		r, err := b.Judge(t.Context(), "x")
		if r != nil || err != nil {
			t.Errorf("%v: %+v, %v", c, r, err)
		}
	}
}

// TestNoReport shows that no report is written if the target file cannot be read.
func TestNoReport(t *testing.T) {
	b := newBench(t, fake{unit: running(os.Getpid())}, true)
	b.open(t, state.PhaseTrial, "")
	if err := os.WriteFile(filepath.Join(b.dirs.Root, "etc", "x.toml"), []byte("unit = 7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err := b.Judge(t.Context(), "x"); r != nil || err == nil {
		t.Errorf("broken target file: %+v, %v", r, err)
	}
	if _, err := b.Baseline(t.Context(), "x"); err == nil {
		t.Error("baseline: broken target file: no error")
	}
}

// turns is a systemd whose unit has each of these states in turn; the last one stays.
type turns struct {
	fake
	left *[]systemd.Unit
}

func (f turns) Unit(_ context.Context, name string) (systemd.Unit, error) {
	if !strings.HasPrefix(name, "x.") {
		return f.fake.Unit(context.Background(), name)
	}
	u := (*f.left)[0]
	if len(*f.left) > 1 {
		*f.left = (*f.left)[1:]
	}
	u.Name = name
	return u, nil
}

func (f turns) Changes() <-chan struct{} {
	more := make(chan struct{})
	close(more)
	return more
}

// TestRestartOnRequest: a daemon may exit once in a way that its unit declares, in the trial and
// after the rollback, but not when nothing has started it.
func TestRestartOnRequest(t *testing.T) {
	asked := asks.Unit
	asked.Forced = systemd.Exits{Statuses: []int32{75}}
	again := running(os.Getpid())
	again.NRestarts = 1
	begin := func(t *testing.T) bench {
		left := []systemd.Unit{asked, asked, again}
		return newBench(t, turns{left: &left}, true)
	}
	b := begin(t)
	b.open(t, state.PhaseTrial, "")
	if r, err := b.Judge(t.Context(), "x"); err != nil || r.Finding != state.FindingHealthy {
		t.Errorf("in the trial: %+v, %v", r, err)
	}
	b = begin(t)
	b.open(t, state.PhaseTrial, state.VerdictRollback)
	if got, err := b.Baseline(t.Context(), "x"); err != nil || !got.Standing {
		t.Errorf("after the rollback: %+v, %v", got, err)
	}
	b = begin(t)
	if got, err := b.Baseline(t.Context(), "x"); err != nil || got.Standing {
		t.Errorf("before the swap: %+v, %v", got, err)
	}
}

// TestJudgeReloaded: units that were reloaded have their limit from the reload on, not from
// their start or that of the gate.
func TestJudgeReloaded(t *testing.T) {
	testkit.Slow(t) // a try of the probe takes as long as it may
	old := running(os.Getpid())
	old.Began = time.Second
	b := newBench(t, fake{unit: old}, false)
	b.open(t, state.PhaseTrial, "")
	j, err := b.tree.Journal("x")
	testkit.Must(t, err)
	j.ByReload, j.Restarted, j.Timeout = true, 2*time.Second, time.Minute
	testkit.Must(t, b.tree.SetJournal(j))
	begin := time.Now()
	r, err := b.Judge(t.Context(), "x")
	if took := time.Since(begin); err != nil || r.Finding != state.FindingBad || took > 10*time.Second {
		t.Errorf("reloaded long ago: %+v, %v after %s", r, err, took)
	}
	p := plan{units: []subject{{unit: "x.service", reloaded: true}}, fresh: true, began: 2 * time.Second}
	if began, err := p.prepare(t.Context(), fake{unit: old}); err != nil || began != 2*time.Second {
		t.Errorf("it began at %s, %v", began, err)
	}
}

// TestJudgeWithoutUnit: without a unit there is nothing that must stay up for a while.
func TestJudgeWithoutUnit(t *testing.T) {
	b := newBench(t, nil, true)
	testkit.Must(t, b.tree.SetJournal(&state.Journal{Attempt: "tried", Target: "x", Version: "2", Phase: state.PhaseTrial,
		Timeout: time.Minute, Settle: time.Minute}))
	testkit.Within(t, func() {
		if r, err := b.Judge(t.Context(), "x"); err != nil || r.Finding != state.FindingHealthy {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// TestWrongMain shows that a wrong health.main, recorded before the swap, is recognised
// in the trial and after the rollback: it is a fault neither of the release nor of the
// rollback.
func TestWrongMain(t *testing.T) {
	b := newBench(t, fake{unit: running(os.Getpid()), pids: []int{os.Getpid()}}, true)
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
	if err != nil || before.Standing || !before.Probes[0].Passed || !strings.HasPrefix(before.Unjudgeable, "no process of x.service runs /bin/sh; its main process runs /") {
		t.Fatalf("before: %+v, %v", before, err)
	}
	b.self = "/bin/sh"
	testkit.Must(t, b.tree.SetBaseline("x", before))
	b.open(t, state.PhaseTrial, "")
	r, err := b.Judge(t.Context(), "x")
	if err != nil || r.Finding != state.FindingUnsure || !strings.HasSuffix(r.Reason, `as before the swap (hint: write main = "" below [health])`) {
		t.Fatalf("report: %+v, %v", r, err)
	}
	b.open(t, state.PhaseTrial, state.VerdictRollback)
	after, err := b.Baseline(t.Context(), "x")
	if err != nil || !after.Standing || !after.Probes[0].Passed {
		t.Fatalf("after: %+v, %v", after, err)
	}
}

// TestJudgeUnknownVersion shows that version_command is not run if the operator goes back
// to a program whose version was never known.
func TestJudgeUnknownVersion(t *testing.T) {
	for version, want := range map[string]state.Finding{"": state.FindingHealthy, "2": state.FindingUnsure} {
		b := newBench(t, fake{unit: running(os.Getpid())}, true)
		text := fmt.Sprintf("unit = \"x.service\"\n[[install]]\nfrom = \"x\"\nto = \"/opt/x\"\n[health]\nmain = \"\"\nversion_command = [\"/bin/echo\"]\n[[health.probe]]\ntcp = %q\nforeign = true\n", b.port)
		if err := os.WriteFile(filepath.Join(b.dirs.Root, "etc", "x.toml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := b.tree.SetJournal(&state.Journal{Attempt: "tried", Target: "x", Unit: "x.service", Main: b.self,
			Version: version, Phase: state.PhaseTrial, Timeout: 300 * ms, Settle: 10 * ms}); err != nil {
			t.Fatal(err)
		}
		if r, err := b.Judge(t.Context(), "x"); err != nil || r.Finding != want {
			t.Errorf("version %q: %+v, %v", version, r, err)
		}
	}
}

package swap

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

var exploreLimit = flag.Int("explore", 15, "how many `states` of the chain are explored; 0 is all")

// errKilled is the panic that ends a swapper in a call of systemd.
var errKilled = errors.New("killed")

// TestExplore explores what can become of a target: from each state it takes each event
// that can come next, and kills the swapper in each call of systemd that the event makes.
// The code is the real one, with files on a real file system; only systemd is not. States
// that differ in nothing but names and times count once.
//
//	go test -run TestExplore -v ./internal/swap -explore 0
func TestExplore(t *testing.T) {
	testkit.Slow(t)
	x := &explorer{rig: newRigBelow(t, memory), seen: map[string]int{}}
	x.saved = filepath.Join(memory, "explored")
	must(t, os.Mkdir(x.saved, 0o755))
	t.Cleanup(func() { must(t, os.RemoveAll(x.saved)) })
	x.arrive(t, "the start")
	for n := 0; n < len(x.paths) && (*exploreLimit == 0 || n < *exploreLimit) && !t.Failed(); n++ {
		for _, e := range x.events(t, n) {
			for kill := 0; ; kill++ { // 0: the swapper is not killed
				x.restore(t, n)
				x.sys.dies = kill
				killed, err := x.take(t, e)
				if kill > 0 && !killed {
					break // the event makes fewer calls
				}
				x.steps++
				path := x.paths[n] + ", " + e.name
				if killed {
					path += fmt.Sprintf(" (killed in call %d)", kill)
				}
				x.check(t, path, e, killed, err)
				x.arrive(t, path)
				if t.Failed() {
					t.Fatalf("after %s:\n%s", path, x.log)
				}
			}
		}
	}
	t.Logf("%d states, %d steps", len(x.paths), x.steps)
	if len(x.paths) < 20 {
		t.Error("hardly anything was explored")
	}
}

// An explorer has a machine, and copies of it in each state that was seen.
type explorer struct {
	*rig
	saved string
	seen  map[string]int // the number of a state
	paths []string       // how each state was reached first
	steps int
}

// A change is an event that may come next. do returns the step's error.
type change struct {
	name  string
	do    func(t *testing.T, r *rig) error
	ends  bool   // no trial is open afterwards, unless the swapper was killed
	tries string // the version that a schedule tries
}

// explored are the releases that are offered.
var explored = []struct {
	version string
	files   map[string]string
}{
	{"v1", map[string]string{"agent": "agent 1", "agent.service": "unit 1"}},
	{"v2", map[string]string{"agent": "agent 2", "extra": "extra 2", "agent.service": "unit 2"}},
	{"v3", map[string]string{"agent": "agent 3", "extra": "extra 3", "agent.service": "unit 3"}},
}

// events returns what can come next in state n.
func (x *explorer) events(t *testing.T, n int) (all []change) {
	x.restore(t, n)
	verb := func(verb string) func(*testing.T, *rig) error {
		return func(_ *testing.T, r *rig) error { return r.do(verb) }
	}
	all = append(all, change{name: "a boot", ends: true, do: func(t *testing.T, r *rig) error {
		kill := r.sys.dies
		r.sys.dies = 0
		r.reboot(t)
		r.sys.dies = kill
		if err := r.do("recover"); err != nil {
			return err
		}
		if j, err := r.tree.Journal("agent"); err == nil && j == nil {
			// What a swap that was killed before its trial has copied stays until the next one.
			for _, path := range r.beside(t) {
				if strings.HasSuffix(path, ".new") {
					must(t, os.Remove(path))
				}
			}
		}
		r.sys.dies = 0 // systemd starts the program, and not the swapper
		return r.sys.Restart(t.Context(), "agent.service", 0)
	}})
	j, err := x.tree.Journal("agent")
	must(t, err)
	if j != nil && j.Verdict == state.VerdictCommit { // systemd repeats it until it succeeds
		return append(all, change{name: "the commit again", ends: true, do: verb("commit")}, change{name: "the deadline", do: verb("rollback")})
	}
	if j != nil {
		return append(all,
			change{name: "a healthy trial", do: func(t *testing.T, r *rig) error {
				r.gate(t, j.Attempt, state.FindingHealthy, "")
				return r.do("commit")
			}},
			change{name: "a bad trial", ends: true, do: func(t *testing.T, r *rig) error {
				r.gate(t, j.Attempt, state.FindingBad, "it is bad")
				return r.do("rollback")
			}},
			change{name: "the deadline", ends: true, do: verb("rollback")})
	}
	st := x.status(t)
	for i, release := range explored {
		if release.version <= st.Installed.Version {
			continue
		}
		for _, origin := range []state.Origin{state.OriginOperator, state.OriginSchedule} {
			all = append(all, change{name: fmt.Sprintf("%s by %s", release.version, origin), tries: release.version, do: func(t *testing.T, r *rig) error {
				attempt := state.AttemptID(fmt.Sprint("a", x.steps))
				r.offer(t, attempt, release.version, int64(i+1), release.files)
				o, err := r.tree.Order("agent")
				must(t, err)
				o.Origin, o.Installed = origin, st.Installed.Version
				must(t, r.tree.SetOrder("agent", o))
				return r.do("swap")
			}})
		}
	}
	if st.Previous != nil {
		all = append(all, change{name: "the operator goes back", do: func(t *testing.T, r *rig) error {
			must(t, r.tree.SetRequest("agent", state.Request{Attempt: state.AttemptID(fmt.Sprint("b", x.steps)), Verb: state.VerbRollback}))
			if err := r.do("begin"); err != nil {
				return err
			}
			return r.do("swap")
		}})
	}
	return all
}

// take carries out an event, and reports whether the swapper was killed in it.
func (x *explorer) take(t *testing.T, e change) (killed bool, err error) {
	defer func() {
		x.sys.dies = 0
		if p := recover(); p == errKilled {
			killed = true
		} else if p != nil {
			panic(p)
		}
	}()
	return false, e.do(t, x.rig)
}

// check fails the test if something is wrong that must never be, whatever happened.
func (x *explorer) check(t *testing.T, path string, e change, killed bool, err error) {
	t.Helper()
	// A step that fails has a reason that the operator or the publisher gave.
	if err != nil && resultOf(err) != state.ResultNotAttempted && e.ends {
		t.Errorf("%s: %v", path, err)
	}
	j, jerr := x.tree.Journal("agent")
	must(t, jerr)
	st := x.status(t)
	now := x.installed(t)
	whole := func(version string) bool {
		n := strings.TrimPrefix(version, "v")
		extra := now["bin/extra"].content
		return now["bin/agent"].content == "agent "+n && now["units/agent.service"].content == "unit "+n &&
			(extra == "extra "+n || extra == "" && n == "1")
	}
	if j == nil {
		if !whole(st.Installed.Version) {
			t.Errorf("installed is %s, and the files are %v", st.Installed.Version, now)
		}
		if !killed {
			x.closed(t)
		}
		return
	}
	if e.ends && !killed {
		t.Errorf("the trial of %s is still open: %+v", j.Version, j)
	}
	for _, name := range []string{"bin/agent", "units/agent.service"} {
		content := now[name].content
		if n := content[strings.LastIndex(content, " ")+1:]; n != strings.TrimPrefix(j.From, "v") && n != strings.TrimPrefix(j.Version, "v") {
			t.Errorf("in the trial of %s over %s, %s is %q", j.Version, j.From, name, content)
		}
	}
	if e.tries != "" && j.Version == e.tries && strings.Contains(e.name, string(state.OriginSchedule)) {
		for _, r := range st.Rejected {
			if r.Archive == sum(e.tries) && (r.Interruptions == 0 || r.Interruptions >= state.MaxInterruptions) {
				t.Errorf("a schedule tries the rejected %s", e.tries)
			}
		}
	}
}

// arrive saves the state, unless it was seen before.
func (x *explorer) arrive(t *testing.T, path string) {
	t.Helper()
	key := x.key(t)
	if _, ok := x.seen[key]; ok {
		return
	}
	n := len(x.paths)
	x.seen[key] = n
	x.paths = append(x.paths, path)
	x.copy(t, x.dir, x.at("units"), x.state(n)+"/dir", x.state(n)+"/units")
}

func (x *explorer) state(n int) string { return filepath.Join(x.saved, fmt.Sprint(n)) }

func (x *explorer) restore(t *testing.T, n int) {
	t.Helper()
	x.copy(t, x.state(n)+"/dir", x.state(n)+"/units", x.dir, x.at("units"))
	x.rig = open(x.dir)
}

// copy replaces the last two directories by copies of the first two.
func (x *explorer) copy(t *testing.T, fromDir, fromUnits, dir, units string) {
	t.Helper()
	for from, to := range map[string]string{fromDir: dir, fromUnits: units} {
		must(t, os.RemoveAll(to))
		must(t, os.MkdirAll(filepath.Dir(to), 0o755))
		if out, err := exec.Command("cp", "--archive", from, to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

// key describes the state by what matters for what comes next: not by times and names of
// attempts.
func (x *explorer) key(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, name := range []string{"bin/agent", "bin/extra", "units/agent.service", "etc/config"} {
		fmt.Fprintf(&b, "%s=%q\n", name, x.installed(t)[name].content)
	}
	for _, name := range []string{"running", "loaded", "needs"} {
		fmt.Fprintf(&b, "%s=%q\n", name, x.sys.get(name))
	}
	fmt.Fprintf(&b, "armed=%v\n", x.sys.get("deadline") != "")
	j, err := x.tree.Journal("agent")
	must(t, err)
	if j != nil {
		fmt.Fprintf(&b, "journal=%s %s %s %s back=%v failed=%v restarted=%v restored=%v\n", j.From, j.Version, j.Phase, j.Verdict, j.GoingBack, j.RollbackFailed != "", j.Restarted != 0, j.Restored)
	}
	st := x.status(t)
	fmt.Fprintf(&b, "installed=%s previous=%v beside=%d\n", st.Installed.Version, st.Previous != nil, len(x.beside(t)))
	for _, r := range st.Rejected {
		fmt.Fprintf(&b, "rejected=%.8s %d\n", r.Archive, r.Interruptions)
	}
	request, err := x.tree.Request("agent")
	must(t, err)
	fmt.Fprintf(&b, "request=%v spool=%d\n", request != nil, len(x.spooled(t)))
	return b.String()
}

func (x *explorer) spooled(t *testing.T) []os.DirEntry {
	t.Helper()
	all, err := os.ReadDir(x.tree.Ready(state.RoleVerify, "agent"))
	if !os.IsNotExist(err) {
		must(t, err)
	}
	return all
}

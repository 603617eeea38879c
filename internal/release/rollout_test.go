package release

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/trust"
)

func (s *testDir) start(steps ...int) {
	s.t.Helper()
	_, err := Start(StartRequest{Dir: s.dir, Keys: s.keys, Steps: steps, After: time.Hour, MaxFailures: 10, Now: s.now})
	s.must(err)
}

// advance lets an hour pass, and the timer run with these counts.
func (s *testDir) advance(c rollout.Counts) (*rollout.State, rollout.Move) {
	s.t.Helper()
	s.now = s.now.Add(time.Hour)
	st, moved, err := Advance(s.dir, s.online(), func(*rollout.Plan) (rollout.Counts, error) { return c, nil }, s.now)
	s.must(err)
	return st, moved
}

// online returns the keys that the timer has.
func (s *testDir) online() Keys {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(s.keys.Dir, OnlineKey, "*.pem"))
	s.must(err)
	return Keys{Files: found}
}

// percent returns the share of the machines that one sees that verifies the directory.
func (s *testDir) percent(version string) int {
	s.t.Helper()
	return rollout.Percent(s.verify(version).Release.Manifest)
}

func (s *testDir) set(q SetRequest) {
	s.t.Helper()
	q.Dir, q.Keys, q.Now = s.dir, s.keys, s.now
	_, _, err := Set(q)
	s.must(err)
}

// TestAdvance takes the steps of a plan with the online key only.
func TestAdvance(t *testing.T) {
	s := newTestDir(t)
	s.publish("v1")
	s.start(1, 10, 100)
	if p := s.percent("v1"); p != 1 {
		t.Fatalf("the first step is %d %%", p)
	}
	good := rollout.Counts{Have: 3}
	for _, c := range []struct {
		counts  rollout.Counts
		moved   rollout.Move
		percent int
		waits   string
	}{
		{good, rollout.Raise, 10, ""},
		{rollout.Counts{Have: 1, Pending: 2}, rollout.Stay, 10, "2 of the clients at 10 % have not reported it yet"},
		{rollout.Counts{Have: 3, Off: true}, rollout.Stay, 10, "updates are stopped at the gate"},
		{rollout.Counts{Have: 9, Failed: 1}, rollout.Raise, 100, ""},
		{rollout.Counts{Have: 1, Pending: 99}, rollout.Finish, 100, ""},
		{rollout.Counts{Failed: 9}, rollout.Stay, 100, ""},
	} {
		st, moved := s.advance(c.counts)
		if moved != c.moved || st.Waits != c.waits || s.percent("v1") != c.percent {
			t.Errorf("%+v: moved %d to %d %%: %+v", c, moved, s.percent("v1"), st)
		}
		_, err := Refresh(s.dir, s.online(), s.now)
		s.must(err)
		if moved != rollout.Finish && moved != rollout.Stay {
			// A step does not end before its time.
			again, moved, err := Advance(s.dir, s.online(), func(*rollout.Plan) (rollout.Counts, error) { return good, nil }, s.now)
			if err != nil || moved != rollout.Stay || again.Percent != c.percent {
				t.Errorf("at once: %+v, %d, %v", again, moved, err)
			}
		}
	}
}

// TestAdvanceStops stops a release that fails, also before the step is over, and for good.
func TestAdvanceStops(t *testing.T) {
	s := newTestDir(t)
	s.publish("v1")
	s.start(10, 100)
	s.now = s.now.Add(-59 * time.Minute)
	st, moved := s.advance(rollout.Counts{Have: 8, Failed: 1})
	if moved != rollout.Stop || st.Stopped != "1 of 9 clients failed at the step of 10 %, and no more than 10 % of them may" || s.percent("v1") != 0 {
		t.Errorf("moved %d: %+v", moved, st)
	}
	if st, moved = s.advance(rollout.Counts{Have: 100}); moved != rollout.Stay || st.Stopped == "" || s.percent("v1") != 0 {
		t.Errorf("moved %d: %+v", moved, st)
	}
	// A plan of the publisher goes on.
	s.start(50)
	if s.percent("v1") != 50 {
		t.Error("the new plan did not begin")
	}
}

// TestAdvanceAsks: without the gate's counts, and with those of another rollout, nothing
// changes.
func TestAdvanceAsks(t *testing.T) {
	s := newTestDir(t)
	s.publish("v1")
	none := func(*rollout.Plan) (rollout.Counts, error) { return rollout.Counts{}, errors.New("the gate is down") }
	if st, moved, err := Advance(s.dir, s.online(), none, s.now); st != nil || moved != rollout.Stay || err != nil {
		t.Errorf("without a plan: %+v, %v", st, err)
	}
	s.start(1, 100)
	before := s.files()
	_, _, err := Advance(s.dir, s.online(), none, s.now.Add(2*time.Hour))
	s.refused(err, "cannot go on with the rollout in "+s.dir+": the gate is down")
	if fmt.Sprint(s.files()) != fmt.Sprint(before) {
		t.Error("the directory changed")
	}
}

// TestStartRefuses: what no plan can be made of changes nothing.
func TestStartRefuses(t *testing.T) {
	s := newTestDir(t)
	start := func(want string, change func(*StartRequest)) {
		t.Helper()
		q := StartRequest{Dir: s.dir, Keys: s.keys, Steps: []int{1, 100}, After: time.Hour, Now: s.now}
		change(&q)
		_, err := Start(q)
		s.refused(err, want)
	}
	start("there is none (hint: machinemon-release publish)", func(*StartRequest) {})
	s.publish("v1")
	before := s.files()
	start("percentages from 1 to 100 must ascend", func(q *StartRequest) { q.Steps = []int{10, 10} })
	start("percentages from 1 to 100 must ascend", func(q *StartRequest) { q.Steps = []int{0, 10} })
	start("there must be at least one step", func(q *StartRequest) { q.Steps = nil })
	start("the signature of the release expires after 45 days", func(q *StartRequest) { q.After = 23 * day })
	if fmt.Sprint(s.files()) != fmt.Sprint(before) {
		t.Error("the directory changed")
	}
	yes := true
	s.set(SetRequest{Disabled: &yes})
	start("the release is disabled", func(*StartRequest) {})
}

// TestPlanEnds shows what ends a plan and what does not, with and without signatures. What
// was signed for its steps can be published by no thief of the online key afterwards.
func TestPlanEnds(t *testing.T) {
	testkit.Slow(t)
	percent, no := 20, false
	for name, c := range map[string]struct {
		change func(*testDir)
		ends   bool
		after  int // percent
	}{
		"the same again":     {func(s *testDir) { _, _, err := Publish(s.request("v1")); s.must(err) }, false, 1},
		"signed again":       {func(s *testDir) { s.set(SetRequest{}) }, false, 1},
		"min_version":        {func(s *testDir) { least := "v0"; s.set(SetRequest{MinVersion: &least}) }, false, 1},
		"refreshed":          {func(s *testDir) { _, err := Refresh(s.dir, s.online(), s.now); s.must(err) }, false, 1},
		"another platform":   {func(s *testDir) { s.addPlatform() }, false, 1},
		"set --rollout":      {func(s *testDir) { s.set(SetRequest{Rollout: &percent}) }, true, 20},
		"set --disabled":     {func(s *testDir) { s.set(SetRequest{Disabled: &no}) }, true, 1},
		"set --retry":        {func(s *testDir) { s.set(SetRequest{Retry: true}) }, true, 1},
		"another release":    {func(s *testDir) { _, _, err := Publish(s.request("v2")); s.must(err) }, true, 100},
		"publish --rollout":  {func(s *testDir) { q := s.request("v1"); q.Rollout = &percent; _, _, err := Publish(q); s.must(err) }, true, 20},
		"publish --disabled": {func(s *testDir) { q := s.request("v1"); q.Disabled = &no; _, _, err := Publish(q); s.must(err) }, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestDir(t)
			s.publish("v1")
			s.start(1, 10, 100)
			planned, err := rollout.Read(s.dir)
			s.must(err)
			thief := s.copyTo(filepath.Join(t.TempDir(), "thief"))
			s.now = s.now.Add(time.Minute)
			c.change(s)
			p, err := rollout.Read(s.dir)
			s.must(err)
			if (p == nil) != c.ends {
				t.Fatalf("the plan is %+v", p)
			}
			v := "v1"
			if name == "another release" {
				v = "v2"
			}
			if got := s.percent(v); got != c.after {
				t.Errorf("it is for %d %%", got)
			}
			if !c.ends {
				if st, moved := s.advance(rollout.Counts{}); moved != rollout.Raise || s.percent(v) != 10 {
					t.Errorf("moved %d: %+v", moved, st)
				}
				return
			}
			_, seen, err := trust.Client{Pin: []byte(s.files()["1.root.json"]), Clock: s.now}.Collect(filesOf(s.dir))
			s.must(err)
			thief.keys, thief.now = s.keys, s.now
			e, err := beginEdit(thief.dir, thief.online().refreshing)
			s.must(err)
			defer e.Close()
			next, err := e.signed.load(planned.Signed[100])
			s.must(err)
			e.signed.timestamp.Signed.Version, e.signed.snapshot.Signed.Version = 90, 90
			files, err := e.signed.publish(next, e.keys, s.now)
			s.must(err)
			s.must(e.write(files))
			_, _, err = trust.Client{Pin: []byte(s.files()["1.root.json"]), State: seen, Clock: s.now}.Collect(filesOf(thief.dir))
			s.refused(err, "targets v")
		})
	}
}

func (s *testDir) addPlatform() {
	s.t.Helper()
	q := s.request("v1")
	q.Archives = []string{writeArchive(s.t, s.t.TempDir(), "agent-linux-arm64", "program for arm")}
	_, changed, err := Publish(q)
	s.must(err)
	if !changed {
		s.t.Error("nothing changed")
	}
}

// TestAdvanceKilled kills a step and a stop after each file. At each moment a machine
// accepts the directory, and the next run completes what was begun.
func TestAdvanceKilled(t *testing.T) {
	testkit.Slow(t)
	for _, c := range []struct {
		counts  rollout.Counts
		percent int
	}{{rollout.Counts{Have: 1}, 10}, {rollout.Counts{Failed: 1}, 0}} {
		for n := 0; ; n++ {
			s := newTestDir(t)
			s.publish("v1")
			s.start(1, 10, 100)
			s.now = s.now.Add(time.Hour)
			counts := func(*rollout.Plan) (rollout.Counts, error) { return c.counts, nil }
			killed, left := errors.New("killed"), n
			kept = func(string) error {
				if left--; left < 0 {
					return killed
				}
				return nil
			}
			_, _, err := Advance(s.dir, s.online(), counts, s.now)
			kept = func(string) error { return nil }
			if err != nil && !errors.Is(err, killed) {
				t.Fatal(err)
			}
			// The plain manifest may lag behind the signed one until the next run.
			m, _, failed := trust.Client{Pin: []byte(s.files()["1.root.json"]), Clock: s.now}.Collect(filesOf(s.dir))
			s.must(failed)
			if p := rollout.Percent(m.Manifest); p != 1 && p != c.percent {
				t.Errorf("killed after %d files: %d %%", n, p)
			}
			if err == nil {
				if n < 4 {
					t.Errorf("only %d files were written", n)
				}
				break
			}
			st, moved, err := Advance(s.dir, s.online(), counts, s.now.Add(time.Minute))
			s.must(err)
			if s.percent("v1") != c.percent || moved == rollout.Raise && n > 0 || (c.percent == 0) != (st.Stopped != "") {
				t.Errorf("killed after %d files: then moved %d: %+v", n, moved, st)
			}
		}
	}
}

// TestSetAfterKill: what is published after a killed step is the plan's step, not that of
// the manifest which was left.
func TestSetAfterKill(t *testing.T) {
	s := newTestDir(t)
	s.publish("v1")
	s.start(1, 10, 100)
	s.now = s.now.Add(time.Hour)
	killed, left := errors.New("killed"), 1
	kept = func(string) error {
		if left--; left < 0 {
			return killed
		}
		return nil
	}
	failed := func(*rollout.Plan) (rollout.Counts, error) { return rollout.Counts{Failed: 1}, nil }
	_, _, err := Advance(s.dir, s.online(), failed, s.now)
	kept = func(string) error { return nil }
	if !errors.Is(err, killed) || s.percent("v1") != 1 {
		t.Fatalf("%v, at %d %%", err, s.percent("v1"))
	}
	least := "v0"
	s.set(SetRequest{MinVersion: &least})
	if got := s.percent("v1"); got != 0 {
		t.Errorf("it was published for %d %%", got)
	}
	if _, moved, err := Advance(s.dir, s.online(), failed, s.now.Add(time.Minute)); err != nil || moved != rollout.Stay || s.percent("v1") != 0 {
		t.Errorf("then moved %d: %v, at %d %%", moved, err, s.percent("v1"))
	}
}

// TestPublishKeeps shows what a release keeps, and what is said of it.
func TestPublishKeeps(t *testing.T) {
	dir := t.TempDir()
	ten, hundred, yes, no := 10, 100, true, false
	var said []string
	publish := func(version, body string, percent *int, disabled *bool) string {
		t.Helper()
		said = nil
		m, _, err := Publish(Request{Dir: dir, Version: version, Archives: []string{writeArchive(t, t.TempDir(), "agent-linux-amd64", body)}, Now: first,
			Rollout: percent, Disabled: disabled, Note: func(line string) { said = append(said, line) }})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s/%d %d %t", m.Version, m.Sequence, rollout.Percent(m), m.Disabled)
	}
	check := func(got, want string, lines ...string) {
		t.Helper()
		if got != want || !slices.Equal(said, lines) {
			t.Errorf("%s, want %s; said %q", got, want, said)
		}
	}
	check(publish("v1", "one", &ten, &yes), "v1/1 10 true")
	check(publish("v1", "one", nil, nil), "v1/1 10 true", "keeps: a rollout of 10 %", "keeps: disabled")
	check(publish("v1", "other", nil, &no), "v1/2 10 false", "keeps: a rollout of 10 %")
	check(publish("v1", "other", &hundred, nil), "v1/2 100 false")
	publish("v1", "other", &ten, &yes)
	check(publish("v2", "two", nil, nil), "v2/3 100 false", "does not keep, from v1: a rollout of 10 %", "does not keep, from v1: disabled")
	_, err := Start(StartRequest{Dir: dir, Steps: []int{5, 100}, After: time.Hour, Now: first})
	if err != nil {
		t.Fatal(err)
	}
	check(publish("v2", "two", nil, nil), "v2/3 5 false", "keeps: a rollout of 5 %", "keeps: the plan for its rollout")
	check(publish("v2", "new", nil, nil), "v2/4 5 false", "keeps: a rollout of 5 %", "ended the plan for the rollout of v2")
	if _, err := os.Stat(filepath.Join(dir, rollout.FileName)); err == nil {
		t.Error("the plan is still there")
	}
}

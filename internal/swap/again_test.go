package swap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// newSmallRig returns a machine whose files and state are on a file system of 8 MiB. The
// test's own records of systemd, and /run, are not.
func newSmallRig(t *testing.T) *rig {
	t.Helper()
	disk := fmt.Sprintf("%s/small-%d", base, rigs.Add(1))
	must(t, os.MkdirAll(disk, 0o755))
	mount := func(at, options string) {
		must(t, unix.Mount("tmpfs", at, "tmpfs", 0, options))
		t.Cleanup(func() { must(t, unix.Unmount(at, unix.MNT_DETACH)) })
	}
	mount(disk, "mode=755,size=8m")
	useUnits(disk)
	r := newRigBelow(t, disk)
	mount(r.at("run"), "mode=755")
	r.makeRun(t)
	loaded, running := r.sys.get("loaded"), r.sys.get("running")
	mount(r.at("machine"), "mode=755")
	must(t, errors.Join(r.sys.set("loaded", loaded), r.sys.set("running", running)))
	r.alsoSave(t)
	r.put(t, "etc/blob", oldBlob)
	return r
}

// These are data that a bad release has rewritten, large enough to need space.
var (
	oldBlob = file{strings.Repeat("old", 300_000), 0o600, 0}
	newBlob = file{strings.Repeat("new", 300_000), 0o600, 0}
)

// alsoSave adds the large data to the snapshot.
func (r *rig) alsoSave(t *testing.T) {
	t.Helper()
	r.retarget(t, `etc/config"]`, `etc/config", "`+r.at("etc/blob")+`"]`)
}

// retarget changes the target file.
func (r *rig) retarget(t *testing.T, from, to string) {
	t.Helper()
	path := r.at("targets/agent.toml")
	content, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte(strings.Replace(string(content), from, to, 1)), 0o644))
}

// wantBlob checks the large data.
func (r *rig) wantBlob(t *testing.T, want file) {
	t.Helper()
	if got, err := os.ReadFile(r.at("etc/blob")); err != nil || string(got) != want.content {
		t.Errorf("the large data are %.3q: %v", got, err)
	}
}

// fill uses up the space of the machine except for leave bytes.
func (r *rig) fill(t *testing.T, leave int64) {
	t.Helper()
	free, err := state.Free(r.dir)
	must(t, err)
	must(t, os.WriteFile(r.at("ballast"), make([]byte, free-leave), 0o600))
}

func (r *rig) empty(t *testing.T) { must(t, os.Remove(r.at("ballast"))) }

// rooms returns the files that keep space.
func (r *rig) rooms(t *testing.T) (all []string) {
	t.Helper()
	must(t, filepath.WalkDir(r.dir, func(path string, _ os.DirEntry, err error) error {
		if strings.Contains(filepath.Base(path), "room") {
			all = append(all, path)
		}
		return err
	}))
	units, err := filepath.Glob(r.at("units") + "/.machinemon-update/*room*")
	must(t, err)
	return append(all, units...)
}

// TestFullDisk: a release that fills the disk is rolled back, with data and records.
func TestFullDisk(t *testing.T) {
	testkit.Slow(t)
	for name, prepare := range map[string]func(*testing.T, *rig){
		"a trial": badTrial,
		"with a hook": func(t *testing.T, r *rig) {
			hooked(t, r)
			r.alsoSave(t)
			r.step(t, "swap")
			r.gate(t, "a1", state.FindingBad, "it is bad")
		},
		"stopped for the snapshot": func(t *testing.T, r *rig) {
			r.retarget(t, "[health]", "stop = true\n[health]")
			badTrial(t, r)
		},
	} {
		for _, verb := range []string{"rollback", "recover"} {
			t.Run(name+", "+verb, func(t *testing.T) {
				r := newSmallRig(t)
				prepare(t, r)
				r.put(t, "etc/blob", newBlob)
				r.fill(t, 0)
				if verb == "recover" {
					must(t, os.RemoveAll(r.tree.Run+"/attempt"))
					must(t, os.MkdirAll(r.tree.Run+"/attempt", 0o755))
					must(t, r.sys.set("running", "")) // nothing runs at boot
				}
				r.step(t, verb)
				r.want(t, oldFiles)
				r.wantBlob(t, oldBlob)
				if open, err := r.tree.OpenTrials(); err != nil || len(open) > 0 {
					t.Errorf("open trials: %v, %v", open, err)
				}
				if left := r.rooms(t); len(left) > 0 {
					t.Errorf("left over: %q", left)
				}
			})
		}
	}
}

// TestNoRoom: without the space for a rollback nothing is replaced, except when the
// operator goes back.
func TestNoRoom(t *testing.T) {
	r := newSmallRig(t)
	r.offer(t, "a0", "v2", 2, release2)
	r.fill(t, 7<<19)
	r.fails(t, "swap", state.ResultFailed, "cannot keep space for a rollback: ", "a rollback needs 905216 bytes on the file system mounted on "+filepath.Dir(r.dir)+", and ", " are free: no space left on device")
	r.want(t, oldFiles)
	if n := r.sys.called("restart agent.service"); n > 0 || len(r.rooms(t)) > 0 || len(r.beside(t)) > 0 {
		t.Errorf("%d restarts; left over: %q, %q", n, r.rooms(t), r.beside(t))
	}
	r.empty(t)
	committed(t, r)
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
	r.fill(t, 1<<20)
	r.step(t, "swap")
	if !strings.Contains(r.log.String(), "no space is kept for a rollback") {
		t.Errorf("the log does not say it: %s", r.log)
	}
}

// unreturned returns a machine on which the rollback failed for want of space, and the
// old program runs.
func unreturned(t *testing.T) *rig {
	t.Helper()
	r := newSmallRig(t)
	badTrial(t, r)
	r.put(t, "etc/blob", newBlob)
	for _, room := range r.rooms(t) {
		must(t, os.Remove(room))
	}
	r.fill(t, 0)
	r.fails(t, "rollback", state.ResultRollbackFailed, "cannot restore", "etc/blob", "no space left on device",
		"agent.service starts although not all data came back from v2; those from before the update are kept in "+r.tree.Dir(state.RoleSwap, "agent")+"/snapshot/a1")
	if got := r.sys.get("running"); got != "agent 1" {
		t.Errorf("%q runs", got)
	}
	r.lookedAgain(t)
	return r
}

// lookedAgain checks that the rollback waits for space.
func (r *rig) lookedAgain(t *testing.T) {
	t.Helper()
	if got := r.sys.get("deadline"); got != "machinemon-deadline@agent.timer" || r.sys.armed < time.Minute || r.sys.armed > time.Hour {
		t.Errorf("the timer %q is armed for %s", got, r.sys.armed)
	}
	r.wantBlob(t, newBlob)
}

// TestAgain: a rollback that failed for want of space is tried again when there is space,
// by its timer or at boot, but not on data that were written since.
func TestAgain(t *testing.T) {
	testkit.Slow(t)
	t.Run("when there is space", func(t *testing.T) {
		r := unreturned(t)
		restarts := r.sys.called("restart agent.service")
		r.step(t, "rollback")
		r.lookedAgain(t)
		if n := r.sys.called("restart agent.service"); n != restarts {
			t.Error("the unit was restarted although there is no space")
		}
		r.empty(t)
		r.step(t, "rollback")
		r.want(t, oldFiles)
		r.wantBlob(t, oldBlob)
		r.closed(t)
		r.ended(t, "a1", state.ResultRolledBack, "it is bad")
	})
	t.Run("at boot", func(t *testing.T) {
		r := unreturned(t)
		r.empty(t)
		must(t, os.RemoveAll(r.tree.Run+"/attempt"))
		must(t, os.MkdirAll(r.tree.Run+"/attempt", 0o755))
		must(t, r.sys.set("running", ""))
		r.step(t, "recover")
		r.want(t, oldFiles)
		r.wantBlob(t, oldBlob)
	})
	for name, c := range map[string]struct {
		do   func(t *testing.T, r *rig)
		over string
	}{
		"written since": {func(t *testing.T, r *rig) { r.put(t, "etc/blob", newBlob) }, "the data were written since"},
		"too late": {func(t *testing.T, r *rig) {
			r.change(t, func(a *state.Again) { a.Since = a.Since.Add(-state.TriedFor - time.Second) })
		}, "there was no space for too long"},
		"too often": {func(t *testing.T, r *rig) { r.change(t, func(a *state.Again) { a.Tries = state.MostTries }) }, "it was tried often enough"},
	} {
		t.Run(name, func(t *testing.T) {
			r := unreturned(t)
			r.empty(t)
			c.do(t, r)
			must(t, r.sys.Stop(t.Context(), "machinemon-deadline@agent.timer")) // it has elapsed
			before := r.installed(t)
			r.step(t, "rollback")
			if got := r.installed(t); !reflect.DeepEqual(got, before) || r.sys.get("deadline") != "" {
				t.Errorf("%q is armed, and there are %+v, were %+v", r.sys.get("deadline"), got, before)
			}
			j, err := r.tree.Journal("agent")
			must(t, err)
			if got := j.Unsettled(); !strings.Contains(got, "it is not tried again by itself: "+c.over) {
				t.Errorf("it says %q", got)
			}
			r.fails(t, "begin", state.ResultRollbackFailed, c.over)
			r.word(t, state.VerbSettleBack)
			r.step(t, "rollback")
			r.want(t, oldFiles)
			r.wantBlob(t, oldBlob)
			r.closed(t)
		})
	}
	t.Run("held", func(t *testing.T) {
		r := unreturned(t)
		r.empty(t)
		must(t, r.tree.Update(state.RoleSwap, "agent", func(st *state.Status) { st.Held = &state.Hold{Since: time.Now()} }))
		r.step(t, "rollback")
		r.lookedAgain(t)
	})
}

// change changes how a failed rollback goes on.
func (r *rig) change(t *testing.T, change func(*state.Again)) {
	t.Helper()
	j, err := r.tree.Journal("agent")
	must(t, err)
	change(j.Again)
	must(t, r.tree.SetJournal(j))
}

// TestHaltFails: the old program comes back although the unit cannot be stopped, which
// keeps the data from being restored.
func TestHaltFails(t *testing.T) {
	r := newRig(t)
	badTrial(t, r)
	r.sys.fails["stop agent.service"] = errors.New("no answer")
	r.fails(t, "rollback", state.ResultRollbackFailed, "no answer", "starts although not all data came back from v2")
	if got := r.installed(t); got["bin/agent"] != oldFiles["bin/agent"] || r.sys.get("running") != "agent 1" {
		t.Errorf("installed is %+v, and %q runs", got["bin/agent"], r.sys.get("running"))
	}
}

// waiting leaves a rollback that failed for want of space, which is there by now.
func waiting(t *testing.T, r *rig) {
	badTrial(t, r)
	j, err := r.tree.Journal("agent")
	must(t, err)
	mark, err := markOf(j)
	must(t, err)
	j.Verdict, j.Finding, j.Reason, j.RollbackFailed = state.VerdictRollback, state.FindingBad, "it is bad", "no space"
	j.Again = &state.Again{Since: time.Now(), Mark: mark}
	must(t, r.tree.SetJournal(j))
}

// TestKilledRoom kills a swap before each of its durable steps, with data on a file system
// of their own, and wants no reserved space left over after the step that follows.
func TestKilledRoom(t *testing.T) {
	testkit.Slow(t)
	seen := false
	for n := 1; ; n++ {
		r := newRigBelow(t, memory)
		must(t, unix.Mount("tmpfs", r.at("etc"), "tmpfs", 0, "mode=755"))
		r.put(t, "etc/config", oldFiles["etc/config"])
		r.offer(t, "a1", "v2", 2, release2)
		steps, killed := r.trace(t, "swap", n)
		left, err := filepath.Glob(r.at("etc/.machinemon-update.restore-*"))
		must(t, err)
		seen = seen || killed && len(left) > 0
		r.step(t, "rollback")
		if left, err = filepath.Glob(r.at("etc/.machinemon-update.restore-*")); err != nil || len(left) > 0 {
			t.Errorf("killed before %s: left over: %q, %v", steps[len(steps)-1], left, err)
		}
		must(t, unix.Unmount(r.at("etc"), unix.MNT_DETACH))
		if !killed {
			break
		}
	}
	if !seen {
		t.Error("no kill left any")
	}
}

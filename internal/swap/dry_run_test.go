package swap

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
)

// dryOffer is offer for an attempt that is to end before the swap.
func (r *rig) dryOffer(t *testing.T, attempt state.AttemptID, version string, sequence int64, files map[string]string) {
	t.Helper()
	r.offer(t, attempt, version, sequence, files)
	must(t, r.tree.SetOrder("agent", state.Order{Attempt: attempt, Origin: state.OriginOperator, Verb: state.VerbApply, DryRun: true, Installed: "v1"}))
}

// everything returns the paths of the machine's files and directories, except those that
// record attempts.
func (r *rig) everything(t *testing.T) (all []string) {
	t.Helper()
	must(t, filepath.WalkDir(r.dir, func(path string, e fs.DirEntry, err error) error {
		if e.Name() == "run" || e.Name() == "var" || e.Name() == "machine" {
			return filepath.SkipDir
		}
		all = append(all, path)
		return err
	}))
	return all
}

// TestDryRun: everything is tried up to the swap, said, and removed again.
func TestDryRun(t *testing.T) {
	r := newRig(t)
	r.configure(t, "[hooks]\npre_swap = ['/bin/true', 'now']\n")
	before := r.everything(t)
	r.dryOffer(t, "a1", "v2", 2, release2)
	r.step(t, "swap")
	r.ended(t, "a1", state.ResultAvailable, "dry run: ", "replace "+r.at("bin/agent"), "create "+r.at("bin/extra"), " and "+r.at("units/agent.service"),
		"save "+r.at("etc/config"), "run /bin/true", "restarting agent.service")
	r.want(t, oldFiles)
	r.closed(t)
	if got := r.everything(t); !slices.Equal(got, before) {
		t.Errorf("left behind:\n%q\nbefore:\n%q", got, before)
	}
	if pending, err := r.tree.Pending(state.RoleVerify, "agent"); pending || err != nil {
		t.Errorf("the verified tree is still there: %v", err)
	}
	if r.sys.get("running") != "agent 1" || len(r.status(t).Rejected) > 0 || r.status(t).Installed.Version != "v1" {
		t.Errorf("the dry run had an effect: %s, %+v", r.sys.get("running"), r.status(t))
	}
	// What follows has nothing to do, as after a release that was adopted.
	r.step(t, "rollback")
	r.want(t, oldFiles)

	// Then it is installed.
	r.offer(t, "a2", "v2", 2, release2)
	r.step(t, "swap")
	if j, err := r.tree.Journal("agent"); err != nil || j == nil {
		t.Fatalf("apply did not begin a trial: %v", err)
	}
}

// TestDryRunWarns: what apply would warn of is in the record of the dry run, too.
func TestDryRunWarns(t *testing.T) {
	r := newRig(t)
	r.put(t, "units/agent.service", file{"[Service]\nKillMode=process\n", 0o644, 0})
	must(t, r.sys.Reload(t.Context()))
	r.dryOffer(t, "a1", "v2", 2, map[string]string{"agent": "agent 2", "agent.service": "[Service]\n"})
	r.step(t, "swap")
	r.ended(t, "a1", state.ResultAvailable, "dry run: ")
	if w := r.last(t).Warning; !strings.Contains(w, "a stop of agent.service ends all its processes (KillMode=control-group)") {
		t.Errorf("the warning: %q", w)
	}
}

// TestDryRunOfSomeFiles: a file that stays as it is is not announced.
func TestDryRunOfSomeFiles(t *testing.T) {
	r := newRig(t)
	r.dryOffer(t, "a1", "v3", 3, release3)
	r.step(t, "swap")
	r.ended(t, "a1", state.ResultAvailable, "save "+r.at("etc/config")+", replace "+r.at("bin/agent")+", restarting agent.service")
}

// TestDryRunInPlace: a release whose files are there already is not recorded as installed.
func TestDryRunInPlace(t *testing.T) {
	r := newRig(t)
	r.dryOffer(t, "a1", "v2", 2, release1)
	r.step(t, "swap")
	r.ended(t, "a1", state.ResultAvailable, "dry run: ", "its files are installed already")
	if v := r.status(t).Installed.Version; v != "v1" {
		t.Errorf("%s is recorded as installed", v)
	}
}

// TestDryRunKeepsPrevious: the kept release is not given up for a dry run.
func TestDryRunKeepsPrevious(t *testing.T) {
	r := newRig(t)
	sw := &swapping{Swapper: r.sw, name: "agent", journal: &state.Journal{}, known: policy.Known{Order: state.Order{DryRun: true}}}
	if err := sw.givePreviousUp(&state.Release{Version: "v0"}, "the new files need 2.0 MB on the disk of /d, and 1.0 MB are free"); err == nil || sw.status.Previous != nil {
		t.Errorf("got %v", err)
	} else if want := "cannot stage the release: the new files need 2.0 MB on the disk of /d, and 1.0 MB are free; apply would give release v0 up for them, which is kept for a rollback by command"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

// TestDryRunOrder: the request's flag reaches the order.
func TestDryRunOrder(t *testing.T) {
	r := newRig(t)
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "a1", Verb: state.VerbApply, DryRun: true}))
	r.step(t, "begin")
	if o, err := r.tree.Order("agent"); err != nil || !o.DryRun || o.Verb != state.VerbApply {
		t.Errorf("got %+v, %v", o, err)
	}
}

package swap

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/machinemon/machinemon-update/internal/snapshot"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// alice is the user whose program is updated in these tests.
const alice = 1234

// verbEnv makes the test binary run a verb of package snapshot.
const verbEnv = "MACHINEMON_TEST_VERB"

// verbOfUser runs the verb of this process, if it has one.
func verbOfUser() {
	verb, ok := snapshot.Verbs[os.Getenv(verbEnv)]
	if !ok {
		return
	}
	if err := verb(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// testBinary returns a copy of the test binary that every user may execute.
var testBinary = sync.OnceValues(func() (string, error) {
	own, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", err
	}
	path := filepath.Join(base, "swapper")
	return path, errors.Join(os.WriteFile(path, own, 0o755), os.Chmod(path, 0o755))
})

// asAlice runs a hook as the user, who sees the directory of its bind mount only, as under
// systemd.
func asAlice(h systemd.Hook) error {
	if h.Argv[1] == "none" {
		return nil
	}
	own, err := testBinary()
	if err != nil {
		return err
	}
	const inside = `set -e; mount -t tmpfs tmpfs /run; mkdir -p "$1"; mount --bind "$2" "$1"; shift 2; umask 077
exec setpriv --reuid=1234 --regid=1234 --clear-groups --no-new-privs "$@"`
	cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-c", inside, "sh", h.Bind[0].To, h.Bind[0].From, own}, h.Argv[2:]...)...)
	cmd.Env = append(os.Environ(), verbEnv+"="+h.Argv[1])
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// places are the directories below which the program of the tests may be: in the home of
// the unit's user, and in that user's directory below one of root's.
var places = []string{"/home", "/srv"}

// newHomeRig returns a machine whose target is a program in the home of the unit's user.
func newHomeRig(t *testing.T) *rig { return newUserRig(t, "/home") }

// newUserRig returns a machine whose target is a program in a directory of the unit's user,
// which is in one of root's unless the place is /home.
func newUserRig(t *testing.T, place string) *rig {
	t.Helper()
	r := newRig(t)
	home, err := os.MkdirTemp(place, "machinemon-update-test-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(home)) })
	r.sys.home = filepath.Join(home, "bin/agent")
	must(t, os.Mkdir(filepath.Join(home, "bin"), 0o700))
	must(t, os.WriteFile(r.sys.home, []byte("agent 1"), 0o750))
	if must(t, os.Chmod(home, 0o755)); place == "/home" {
		must(t, os.Chown(home, alice, alice))
	}
	for _, p := range []string{r.sys.home, filepath.Dir(r.sys.home)} {
		must(t, os.Chown(p, alice, alice))
	}
	must(t, os.WriteFile(r.at("targets/agent.toml"), fmt.Appendf(nil, `unit = "agent.service"
auto_update_enabled = true
[source]
type = "file"
path = %q
[[install]]
from = "agent"
to = %q
[health]
main = ""
version_command = [%q, "--version"]
`, r.at("releases"), r.sys.home, r.sys.home), 0o644))
	must(t, r.tree.SetStatus(state.RoleSwap, "agent", state.Status{}))
	r.sys.tried.Output = "agent v2\n"
	return r
}

// has fails the test unless the user's program is this one, with its owner and mode, and
// nothing else is in the user's directory.
func (r *rig) has(t *testing.T, content string) {
	t.Helper()
	got, err := os.ReadFile(r.sys.home)
	must(t, err)
	info, err := os.Stat(r.sys.home)
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); string(got) != content || info.Mode() != 0o750 || st.Uid != alice || st.Gid != alice {
		t.Errorf("the program is %q %v of %d:%d, want %q", got, info.Mode(), st.Uid, st.Gid, content)
	}
	if names := testkit.Names(t, filepath.Dir(r.sys.home)); len(names) != 1 {
		t.Errorf("beside the program are %q", names)
	}
}

// keeps fails the test unless root keeps exactly these contents.
func (r *rig) keeps(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	err := filepath.WalkDir(r.at("var/swap/agent/programs"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			var content []byte
			content, err = os.ReadFile(path)
			got = append(got, string(content))
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("root keeps %q, want %q", got, want)
	}
	if open, err := r.tree.OpenTrials(); err != nil || len(open) > 0 {
		t.Errorf("open trials: %v, %v", open, err)
	}
}

func (r *rig) agent2(t *testing.T) {
	t.Helper()
	r.offer(t, "a1", "v2", 2, map[string]string{"agent": "agent 2"})
}

// TestOfUser updates a program in a user's directory, goes back, and rolls back.
func TestOfUser(t *testing.T) {
	testkit.Slow(t)
	for _, place := range places {
		t.Run(place, func(t *testing.T) { testOfUser(t, newUserRig(t, place)) })
	}
}

func testOfUser(t *testing.T, r *rig) {
	r.agent2(t)
	r.step(t, "swap")
	if got := r.sys.trial; len(got.Over) != 1 || got.Over[0].To != newProgram || !slices.Equal(got.Argv, []string{newProgram, "--version"}) {
		t.Errorf("the pre-flight was %+v", got)
	}
	r.has(t, "agent 2")
	r.gate(t, "a1", state.FindingHealthy, "")
	r.step(t, "commit")
	r.has(t, "agent 2")
	r.keeps(t, "agent 1")

	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
	r.sys.tried.Output = "agent v1\n"
	r.step(t, "swap")
	r.has(t, "agent 1")
	r.gate(t, "b1", state.FindingHealthy, "")
	r.step(t, "commit")
	r.has(t, "agent 1")
	r.keeps(t)

	r.offer(t, "a2", "v3", 3, map[string]string{"agent": "agent 3"})
	r.sys.tried.Output = "agent v3\n"
	r.step(t, "swap")
	r.has(t, "agent 3")
	r.gate(t, "a2", state.FindingBad, "it is bad")
	r.step(t, "rollback")
	r.has(t, "agent 1")
	r.ended(t, "a2", state.ResultRolledBack, "it is bad")
	r.keeps(t)
	if got := r.sys.get("running"); got != "agent 1" {
		t.Errorf("%q runs", got)
	}
}

// TestDataOfUser: data that the unit's user can write are saved and restored as that user, who
// also keeps the space for that.
func TestDataOfUser(t *testing.T) {
	r := newRig(t)
	r.sys.home = r.at("bin/agent") // the unit runs as alice
	write := func(name, content string) {
		must(t, os.WriteFile(r.at(name), []byte(content), 0o640))
		must(t, os.Chown(r.at(name), alice, alice))
	}
	must(t, os.MkdirAll(r.at("opt/data"), 0o755))
	must(t, os.Chown(r.at("opt/data"), alice, alice))
	write("opt/data/list", "old")
	r.retarget(t, "snapshot = [", fmt.Sprintf("snapshot = [%q, %q, ", r.at("opt/data/list"), r.at("opt/data/none")))
	badTrial(t, r)
	write("opt/data/list", "new")
	write("opt/data/none", "new")
	if !r.sys.order("hook snapshot-save", "hook snapshot-reserve", "restart agent.service") {
		t.Errorf("calls: %q", r.sys.calls)
	}
	r.step(t, "rollback")
	r.want(t, oldFiles)
	r.holds(t, "opt/data/list", "old")
	r.holds(t, "opt/data/none", "")
	info, err := os.Stat(r.at("opt/data/list"))
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); st.Uid != alice || info.Mode() != 0o640 {
		t.Errorf("it is of user %d, %v", st.Uid, info.Mode())
	}
	r.closed(t)

	// Without the space for a rollback nothing is replaced.
	r.sys.fails["hook snapshot-reserve"] = errors.New("exited with status 1")
	r.offer(t, "a2", "v2", 3, release3)
	r.fails(t, "swap", state.ResultFailed, "cannot keep space for a rollback: snapshot-reserve of the data of user alice: exited with status 1")
	r.want(t, oldFiles)
	delete(r.sys.fails, "hook snapshot-reserve")

	// What keeps the owner from restoring is not known, but it is not the space.
	r.offer(t, "a3", "v2", 3, release3)
	r.step(t, "swap")
	write("opt/data/list", "new")
	r.gate(t, "a3", state.FindingBad, "it is bad")
	r.sys.fails["hook snapshot-restore"] = errors.New("exited with status 1")
	r.fails(t, "rollback", state.ResultRollbackFailed, "exited with status 1")
	if j, err := r.tree.Journal("agent"); err != nil || j.Again == nil || j.Again.Over != "space is not what it lacked" {
		t.Errorf("it is to be tried again: %+v, %v", j.Again, err)
	}
}

// TestOfUserRefused checks what keeps a program in a user's directory from its update.
func TestOfUserRefused(t *testing.T) {
	testkit.Slow(t)
	for _, row := range []struct {
		name   string
		change func(t *testing.T, r *rig)
		want   state.Result
		says   string
	}{
		{"the unit runs as another user", func(t *testing.T, r *rig) {
			r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: "active", Sub: "running", MainPID: 4242, User: "bob", UID: 4321}
		}, state.ResultMisconfigured, ", and agent.service runs as user 4321"},
		{"the unit runs as root", func(t *testing.T, r *rig) {
			r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: "active", Sub: "running", MainPID: 4242}
		}, state.ResultMisconfigured, "cannot install a program in a user's directory: others than root can write there, and agent.service runs as root"},
		{"a dynamic user", func(t *testing.T, r *rig) {
			r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: "active", Sub: "running", MainPID: 4242, User: "alice", UID: alice, DynamicUser: true}
		}, state.ResultMisconfigured, "has a user for its run only (DynamicUser=)"},
		{"another user's", func(t *testing.T, r *rig) { must(t, os.Chown(r.sys.home, 4321, alice)) },
			state.ResultFailed, "it is owned by user 4321, and the unit runs as user 1234"},
		{"root's directory", func(t *testing.T, r *rig) {
			must(t, os.Chown(filepath.Dir(r.sys.home), 0, 0))
		}, state.ResultFailed, "permission denied"},
		{"root's directory, which is no home", func(t *testing.T, r *rig) {
			must(t, os.Chown(filepath.Dir(r.sys.home), 0, 0))
		}, state.ResultMisconfigured, "bin/agent is owned by user 1234, not by root"},
		{"a link", func(t *testing.T, r *rig) {
			must(t, os.Remove(r.sys.home))
			must(t, os.Symlink(r.at("bin/agent"), r.sys.home))
		}, state.ResultFailed, "a symbolic link leads to it"},
		{"its version_command by a shell", func(t *testing.T, r *rig) {
			target, err := os.ReadFile(r.at("targets/agent.toml"))
			must(t, err)
			must(t, os.WriteFile(r.at("targets/agent.toml"), bytes.Replace(target, []byte("version_command = ["), []byte("version_command = [\"/bin/sh\", "), 1), 0o644))
		}, state.ResultMisconfigured, "health.version_command: "},
		{"missing", func(t *testing.T, r *rig) { must(t, os.Remove(r.sys.home)) }, state.ResultFailed, "no such file"},
	} {
		for _, place := range places {
			if strings.HasPrefix(row.name, "root's directory") && strings.HasSuffix(row.name, "no home") == (place == "/home") {
				continue
			}
			t.Run(row.name+" "+place, func(t *testing.T) {
				r := newUserRig(t, place)
				row.change(t, r)
				before := r.installed(t)["bin/agent"]
				if row.want == state.ResultMisconfigured { // nothing is downloaded then
					must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: state.VerbApply}))
					r.fails(t, "begin", row.want, row.says)
				}
				r.agent2(t)
				r.fails(t, "swap", row.want, row.says)
				if now := r.installed(t)["bin/agent"]; now != before {
					t.Errorf("root's file is %+v, and was %+v", now, before)
				}
				r.keeps(t)
			})
		}
	}
}

// TestOfUserStranded: a backup that root made beside a program stays where it is once its
// directory is a user's, and the other way round.
func TestOfUserStranded(t *testing.T) {
	testkit.Slow(t)
	install := func(t *testing.T, r *rig, attempt state.AttemptID, content string) {
		r.offer(t, attempt, "v"+content, int64(content[0]), map[string]string{"agent": content})
		r.sys.tried.Output = "agent v" + content + "\n"
		r.step(t, "swap")
		r.gate(t, attempt, state.FindingHealthy, "")
		r.step(t, "commit")
	}
	give := func(t *testing.T, r *rig, owner int) {
		for _, p := range []string{r.sys.home, filepath.Dir(r.sys.home)} {
			must(t, os.Chown(p, owner, owner))
		}
	}
	for _, row := range []struct {
		name          string
		before, after int
	}{{"of a user now", 0, alice}, {"of root now", alice, 0}} {
		t.Run(row.name, func(t *testing.T) {
			r := newUserRig(t, "/srv")
			must(t, os.Chmod(r.sys.home, 0o755))
			give(t, r, row.before)
			install(t, r, "a1", "2")
			give(t, r, row.after)
			st, err := r.tree.Status(state.RoleSwap, "agent")
			must(t, err)
			kept := st.Previous.Files[0].Backup

			must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
			r.fails(t, "swap", state.ResultRefused, "cannot go back: "+filepath.Dir(r.sys.home)+" has another owner since the backup "+kept+" was made")
			if _, err := os.Stat(kept); err != nil {
				t.Error(err)
			}

			must(t, r.tree.SetRequest("agent", state.Request{Attempt: "c1", Verb: state.VerbApply}))
			r.step(t, "begin")
			if st, err = r.tree.Status(state.RoleSwap, "agent"); err != nil || st.Previous != nil {
				t.Errorf("after begin, %+v is kept, %v", st.Previous, err)
			}
			install(t, r, "c1", "3")
			if got, err := os.ReadFile(r.sys.home); err != nil || string(got) != "3" {
				t.Errorf("the program is %q, %v", got, err)
			}
			if st, err = r.tree.Status(state.RoleSwap, "agent"); err != nil || st.Previous == nil || r.tree.OfProgram("agent", st.Previous.Files[0].Backup) != (row.after == alice) {
				t.Errorf("%+v is kept, %v", st.Previous, err)
			}
		})
	}
}

// TestOfUserUnchanged: a kept release stays that has the user's program as it is, and no backup.
func TestOfUserUnchanged(t *testing.T) {
	r := newHomeRig(t)
	must(t, r.tree.SetStatus(state.RoleSwap, "agent", state.Status{Previous: &state.Release{Version: "v0", Files: []state.File{{To: r.sys.home, SHA256: sum("agent 1")}}}}))
	r.step(t, "begin")
	if got := r.status(t).Previous; got == nil || got.Version != "v0" {
		t.Errorf("%+v is kept\n%s", got, r.log)
	}
}

// TestOfUserChanged: what the user put there since stays.
func TestOfUserChanged(t *testing.T) {
	testkit.Slow(t)
	their := func(t *testing.T, r *rig) {
		must(t, os.WriteFile(r.sys.home, []byte("theirs"), 0o750))
	}
	t.Run("before a schedule", func(t *testing.T) {
		r := newHomeRig(t)
		must(t, r.tree.SetStatus(state.RoleSwap, "agent", state.Status{Installed: &state.Release{Version: "v1", Files: []state.File{{To: r.sys.home, SHA256: sum("agent 1")}}}}))
		their(t, r)
		r.agent2(t)
		must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Origin: state.OriginSchedule, Verb: state.VerbApply, Installed: "v1"}))
		r.fails(t, "swap", state.ResultNotAttempted, r.sys.home+" was changed by hand (hint: machinemon-update apply agent)")
		r.has(t, "theirs")
	})
	t.Run("before the swap", func(t *testing.T) {
		r := newHomeRig(t)
		r.agent2(t)
		r.sys.on["try program"] = func() { their(t, r) } // in the pre-flight
		r.fails(t, "swap", state.ResultFailed, "another file was put there since, and stays")
		r.step(t, "rollback")
		r.has(t, "theirs")
	})
	t.Run("in the trial", func(t *testing.T) {
		r := newHomeRig(t)
		r.agent2(t)
		r.step(t, "swap")
		their(t, r)
		r.gate(t, "a1", state.FindingBad, "it is bad")
		r.fails(t, "rollback", state.ResultRollbackFailed, "another file was put there since, and stays")
		r.has(t, "theirs")
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "c1", Verb: state.VerbSettleKeep}))
		r.step(t, "rollback")
		r.ended(t, "a1", state.ResultSettled, "files of another release")
		r.has(t, "theirs")
	})
}

// TestOfUserKilled kills the swap and the rollback around each step of the user's process,
// and wants the program whole.
func TestOfUserKilled(t *testing.T) {
	testkit.Slow(t)
	killed := errors.New("killed")
	for _, row := range []struct {
		verb string
		call string
	}{
		{"swap", "hook program-look"}, {"swap", "hook program-put"}, {"swap", "restart agent.service"},
		{"rollback", "hook program-put"}, {"rollback", "restart agent.service"},
	} {
		for i, then := range []string{"rollback", "recover"} {
			t.Run(strings.Join([]string{row.verb, row.call, then}, " "), func(t *testing.T) {
				r := newUserRig(t, places[i])
				r.agent2(t)
				kill := func() { panic(killed) }
				if row.verb == "rollback" {
					r.step(t, "swap")
					r.gate(t, "a1", state.FindingBad, "it is bad")
				}
				r.sys.on[row.call] = kill
				func() {
					defer func() {
						if got := recover(); got != killed {
							t.Errorf("it was not killed: %v", got)
						}
					}()
					_ = r.do(row.verb)
				}()
				delete(r.sys.on, row.call)
				if then == "recover" {
					r.reboot(t)
				}
				r.step(t, then)
				r.has(t, "agent 1")
				if open, err := r.tree.OpenTrials(); err != nil || len(open) > 0 {
					t.Errorf("open trials: %v, %v", open, err)
				}
			})
		}
	}
}

// TestOfUserProven: only a process that runs the bytes of the release proves it, not
// what is at the path.
func TestOfUserProven(t *testing.T) {
	testkit.Slow(t)
	sleep, err := os.ReadFile("/bin/sleep")
	must(t, err)
	for _, row := range []struct {
		name    string
		program func(r *rig) string
		proven  bool
	}{
		{"the release", func(r *rig) string { return r.sys.home }, true},
		{"the release, which was moved since", func(r *rig) string {
			away := r.sys.home + ".1"
			must(t, os.Rename(r.sys.home, away))
			must(t, os.Symlink("/bin/tail", r.sys.home))
			return away
		}, true},
		{"another program of that path", func(r *rig) string {
			must(t, os.Remove(r.sys.home))
			must(t, os.WriteFile(r.sys.home, slices.Concat(sleep, []byte("other")), 0o750))
			return r.sys.home
		}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newHomeRig(t)
			target, err := os.ReadFile(r.at("targets/agent.toml"))
			must(t, err)
			must(t, os.WriteFile(r.at("targets/agent.toml"), bytes.Replace(target, []byte("main = \"\"\n"), nil, 1), 0o644))
			r.offer(t, "a1", "v2", 2, map[string]string{"agent": string(sleep)})
			r.step(t, "swap")
			daemon := exec.Command(row.program(r), "100")
			must(t, daemon.Start())
			defer func() {
				_ = daemon.Process.Kill()
				_ = daemon.Wait()
			}()
			r.sys.pid = uint32(daemon.Process.Pid)
			r.gate(t, "a1", state.FindingHealthy, "")
			if row.proven {
				r.step(t, "commit")
				r.keeps(t, "agent 1")
			} else {
				r.fails(t, "commit", state.ResultFailed, "does not run the new "+r.sys.home)
			}
		})
	}
}

// TestOfUserHostile: the user controls the own process, and puts into its directory what
// root must not follow or take.
func TestOfUserHostile(t *testing.T) {
	for _, row := range []struct {
		name string
		make func(path string) error
		says string
	}{
		{"a link", func(p string) error { return os.Symlink("/etc/shadow", p) }, "program: "},
		{"a hard link", func(p string) error { return os.Link(p+".root", p) }, "its copy was replaced"},
		{"a FIFO", func(p string) error { return syscall.Mkfifo(p, 0o666) }, "not a regular file"},
		{"a directory", func(p string) error { return os.Mkdir(p, 0o777) }, "not a regular file"},
		{"nothing", func(string) error { return nil }, "program: "},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newHomeRig(t)
			r.agent2(t)
			r.sys.on["hook program-look"] = func() {
				look := filepath.Join(r.sys.hook.Bind[0].From, "look")
				must(t, os.WriteFile(filepath.Join(look, "program.root"), []byte("root's"), 0o600))
				must(t, row.make(filepath.Join(look, "program")))
				r.sys.hook.Argv[1] = "none" // the user's process ends well
			}
			r.fails(t, "swap", state.ResultFailed, row.says)
			r.has(t, "agent 1")
			r.keeps(t)
		})
	}
}

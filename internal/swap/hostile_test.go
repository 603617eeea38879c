package swap

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// replace makes with put another thing in the place of a file of a spool entry.
func replace(t *testing.T, entry, name string, with func(path string) error) {
	t.Helper()
	must(t, os.RemoveAll(filepath.Join(entry, name)))
	must(t, with(filepath.Join(entry, name)))
}

func fifo(path string) error { return unix.Mkfifo(path, 0o666) }

func link(to string) func(string) error {
	return func(path string) error { return os.Symlink(to, path) }
}

// TestRefused checks that no entry that the verifier may leave, and no decision made
// since the order, touches the installed files, and that the next good release installs.
func TestRefused(t *testing.T) {
	testkit.Slow(t)
	order := func(attempt state.AttemptID, o state.Origin) func(*testing.T, *rig) {
		return func(t *testing.T, r *rig) {
			must(t, r.tree.SetOrder("agent", state.Order{Attempt: attempt, Origin: o, Verb: state.VerbApply}))
		}
	}
	unit := func(u systemd.Unit) func(*testing.T, *rig) {
		return func(_ *testing.T, r *rig) { r.sys.units["agent.service"] = u }
	}
	for _, c := range []struct {
		name   string
		tree   func(t *testing.T, r *rig, entry string, m *manifest.Manifest) // damages the entry
		rig    func(t *testing.T, r *rig)
		result state.Result
		words  string
		left   int // number of foreign files in the side directories
	}{
		{name: "no order", rig: func(t *testing.T, r *rig) { must(t, os.Remove(r.tree.Run+"/attempt/agent.json")) },
			result: state.ResultFailed, words: "attempt/agent.json: no such file"},
		{name: "order of another attempt", rig: order("b7", state.OriginOperator), result: state.ResultRefused, words: "root ordered to apply in attempt b7"},
		{name: "order to look only", rig: func(t *testing.T, r *rig) {
			must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Verb: state.VerbCheck}))
		}, result: state.ResultRefused, words: "root ordered to check"},
		{name: "order to go back", rig: func(t *testing.T, r *rig) {
			must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Verb: state.VerbRollback}))
		}, result: state.ResultRefused, words: "root ordered to rollback"},
		{name: "schedule without auto_update_enabled", rig: func(t *testing.T, r *rig) {
			order("a1", state.OriginSchedule)(t, r)
			content, err := os.ReadFile(r.at("targets/agent.toml"))
			must(t, err)
			must(t, os.WriteFile(r.at("targets/agent.toml"), []byte(strings.Replace(string(content), "enabled = true", "enabled = false", 1)), 0o644))
		}, result: state.ResultNotAttempted, words: "scheduled runs only check"},
		{name: "broken target file", rig: func(t *testing.T, r *rig) { r.configure(t, "x = ") }, result: state.ResultMisconfigured, words: "agent.toml"},
		{name: "masked", rig: unit(systemd.Unit{Load: "masked"}), result: state.ResultNotAttempted, words: "is masked"},
		{name: "not installed", rig: unit(systemd.Unit{Load: "not-found"}), result: state.ResultNotAttempted, words: "is not installed"},
		{name: "stopped", rig: unit(systemd.Unit{Load: "loaded", Active: "inactive"}), result: state.ResultNotAttempted, words: "is stopped"},
		{name: "bad unit file", rig: unit(systemd.Unit{Load: "error"}), result: state.ResultMisconfigured, words: "could not load"},

		{name: "withdrawn", tree: func(_ *testing.T, _ *rig, _ string, m *manifest.Manifest) { m.Disabled = true },
			result: state.ResultNotAttempted, words: "disabled"},
		{name: "another product", rig: func(t *testing.T, r *rig) { r.configure(t, "[trust]\nproduct = 'server'\n") },
			result: state.ResultRefused, words: `"agent", target agent wants "server"`},
		{name: "another platform", tree: func(_ *testing.T, _ *rig, _ string, m *manifest.Manifest) {
			m.Platforms = map[string]manifest.Platform{"plan9-mips": m.Platforms[manifest.Host()]}
		}, result: state.ResultRefused, words: "plan9-mips"},
		{name: "other bytes than the manifest's", tree: func(t *testing.T, _ *rig, entry string, _ *manifest.Manifest) {
			must(t, os.WriteFile(entry+"/0", []byte("AGENT 2"), 0o644))
		}, result: state.ResultRefused, words: "the manifest says"},
		{name: "more bytes than the manifest's", tree: func(t *testing.T, _ *rig, entry string, _ *manifest.Manifest) {
			must(t, os.WriteFile(entry+"/0", []byte("agent 2 and more"), 0o644))
		}, result: state.ResultFailed, words: "beyond 7 bytes"},
		{name: "not in contents", tree: func(_ *testing.T, _ *rig, _ string, m *manifest.Manifest) {
			delete(m.Platforms[manifest.Host()].Contents, "agent.service")
		}, result: state.ResultRefused, words: "do not list it"},
		{name: "a file is missing", tree: func(t *testing.T, _ *rig, entry string, _ *manifest.Manifest) { must(t, os.Remove(entry+"/1")) },
			result: state.ResultFailed, words: "cannot read 1: no such file"},
		{name: "the receipt does not name it", tree: func(t *testing.T, _ *rig, entry string, _ *manifest.Manifest) {
			must(t, os.WriteFile(entry+"/receipt.json", []byte(`{"files":[{"entry":"agent","name":"0"}]}`), 0o644))
		}, result: state.ResultRefused, words: "in the release"},
		{name: "a FIFO for a file", tree: func(t *testing.T, _ *rig, entry string, _ *manifest.Manifest) { replace(t, entry, "0", fifo) },
			result: state.ResultFailed, words: "not a regular file"},
		{name: "a link for a file", tree: func(t *testing.T, _ *rig, entry string, _ *manifest.Manifest) {
			replace(t, entry, "0", link("/etc/shadow"))
		}, result: state.ResultFailed},
		{name: "a link within the entry", tree: func(t *testing.T, _ *rig, entry string, _ *manifest.Manifest) {
			replace(t, entry, "0", link("2"))
		}, result: state.ResultRefused, words: "the manifest says"},
		{name: "a name that leads out", tree: func(t *testing.T, r *rig, entry string, _ *manifest.Manifest) {
			must(t, os.WriteFile(entry+"/receipt.json", []byte(`{"files":[{"entry":"agent","name":"../../../../../../bin/agent"},{"entry":"agent.service","name":"2"}]}`), 0o644))
		}, result: state.ResultRefused, words: "not a number"},
		{name: "a FIFO for the receipt", tree: func(t *testing.T, _ *rig, entry string, _ *manifest.Manifest) {
			replace(t, entry, "receipt.json", fifo)
		}, result: state.ResultRefused, words: "receipt.json"},
		{name: "a huge receipt", tree: func(t *testing.T, _ *rig, entry string, _ *manifest.Manifest) {
			must(t, os.Truncate(entry+"/receipt.json", 5<<20))
		}, result: state.ResultRefused, words: "larger than"},
		{name: "a receipt that is no JSON", tree: func(t *testing.T, _ *rig, entry string, _ *manifest.Manifest) {
			must(t, os.WriteFile(entry+"/receipt.json", []byte(`{"files":`), 0o644))
		}, result: state.ResultRefused, words: "damaged"},
		{name: "a sparse file beyond the disk", tree: func(t *testing.T, _ *rig, entry string, _ *manifest.Manifest) {
			must(t, os.Truncate(entry+"/0", 1<<43))
		}, result: state.ResultFailed, words: "are free"},
		{name: "side directory of others", rig: func(t *testing.T, r *rig) {
			must(t, os.Mkdir(r.at("bin/"+sideName), 0o777))
			must(t, os.Chmod(r.at("bin/"+sideName), 0o777))
			must(t, os.WriteFile(r.at("bin/"+sideName+"/x"), nil, 0o644))
		}, left: 1, result: state.ResultFailed, words: "not a private directory of root"},
		{name: "destination is a link", rig: func(t *testing.T, r *rig) {
			must(t, os.Rename(r.at("bin/agent"), r.at("bin/real")))
			must(t, os.Symlink("real", r.at("bin/agent")))
		}, result: state.ResultMisconfigured, words: "is a symlink"},
		{name: "destination is writable", rig: func(t *testing.T, r *rig) { must(t, os.Chmod(r.at("bin"), 0o777)) },
			result: state.ResultMisconfigured, words: "writable by everyone"},
		{name: "snapshot is a FIFO", rig: func(t *testing.T, r *rig) {
			must(t, os.Remove(r.at("etc/config")))
			must(t, fifo(r.at("etc/config")))
		}, result: state.ResultMisconfigured, words: "neither a file nor a directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Origin: state.OriginOperator, Verb: state.VerbApply, Installed: "v1"}))
			r.spool(t, "a1", "v2", 2, release2, func(entry string, m *manifest.Manifest) {
				if c.tree != nil {
					c.tree(t, r, entry, m)
				}
			})
			before := r.installed(t)
			if c.rig != nil {
				before = nil
				c.rig(t, r)
			}
			within(t, func() { r.fails(t, "swap", c.result, c.words) })
			r.ended(t, "a1", c.result)
			if pending, err := r.tree.Pending(state.RoleVerify, "agent"); err != nil || pending {
				t.Errorf("an entry is still in sight: %v, %v", pending, err)
			}
			if got := r.beside(t); len(got) != c.left {
				t.Errorf("left behind: %q", got)
			}
			if r.sys.called("restart agent.service") > 0 {
				t.Error("the unit was restarted")
			}
			if before == nil {
				return
			}
			r.untouched(t)
			if r.status(t).Rejected != nil {
				t.Error("rejected without a trial")
			}
			r.offer(t, "a2", "v2", 2, release2)
			r.step(t, "swap")
			r.want(t, newFiles)
		})
	}
}

// TestForgedSpool checks spool entries that are not valid.
func TestForgedSpool(t *testing.T) {
	for name, plant := range map[string]func(t *testing.T, ready string){
		"a FIFO":               func(t *testing.T, ready string) { must(t, fifo(ready+"/a1")) },
		"a file":               func(t *testing.T, ready string) { must(t, os.WriteFile(ready+"/a1", nil, 0o644)) },
		"a link out":           func(t *testing.T, ready string) { must(t, os.Symlink("/etc", ready+"/a1")) },
		"a name that is no ID": func(t *testing.T, ready string) { must(t, os.Mkdir(ready+"/A 1", 0o755)) },
		"an empty directory":   func(t *testing.T, ready string) { must(t, os.Mkdir(ready+"/a1", 0o755)) },
		"a link for the manifest": func(t *testing.T, ready string) {
			must(t, os.Mkdir(ready+"/a1", 0o755))
			must(t, os.Symlink("/etc/passwd", ready+"/a1/manifest.json"))
		},
		"a FIFO for the manifest": func(t *testing.T, ready string) {
			must(t, os.Mkdir(ready+"/a1", 0o755))
			must(t, fifo(ready+"/a1/manifest.json"))
		},
		"a directory for manifest": func(t *testing.T, ready string) { must(t, os.MkdirAll(ready+"/a1/manifest.json", 0o755)) },
		"a huge manifest": func(t *testing.T, ready string) {
			must(t, os.Mkdir(ready+"/a1", 0o755))
			must(t, os.WriteFile(ready+"/a1/manifest.json", nil, 0o644))
			must(t, os.Truncate(ready+"/a1/manifest.json", manifest.MaxSize+1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Origin: state.OriginOperator, Verb: state.VerbApply}))
			ready := r.tree.Ready(state.RoleVerify, "agent")
			must(t, os.Mkdir(ready, 0o770))
			plant(t, ready)
			within(t, func() {
				if err := r.do("swap"); (err == nil) != (name == "a name that is no ID") {
					t.Errorf("swap: %v", err)
				}
			})
			r.untouched(t)
			if left := testkit.Names(t, ready); len(left) > 0 {
				t.Errorf("the spool holds %q", left)
			}
		})
	}
	t.Run("ready is a link", func(t *testing.T) {
		r := newRig(t)
		must(t, os.MkdirAll(r.at("precious/a1"), 0o755))
		must(t, os.Symlink(r.at("precious"), r.tree.Ready(state.RoleVerify, "agent")))
		r.fails(t, "swap", state.ResultFailed, "escapes")
		r.want(t, oldFiles)
		if _, err := os.Stat(r.at("precious/a1")); err != nil {
			t.Error(err)
		}
		r.step(t, "swap") // the link is gone, and starts this unit no more
	})
}

// TestReplay checks that an entry with the ID of an ended attempt is not installed and
// does not replace that attempt's record.
func TestReplay(t *testing.T) {
	r := newRig(t)
	badTrial(t, r)
	r.step(t, "rollback")
	r.spool(t, "a1", "v3", 3, release3, nil) // the order still names a1
	r.fails(t, "swap", state.ResultRefused, "attempt a1 has ended already")
	r.ended(t, "a1", state.ResultRolledBack)
	r.untouchedButRestarted(t)
	must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a2", Verb: state.VerbApply}))
	r.spool(t, "a1", "v3", 3, release3, nil)
	r.fails(t, "swap", state.ResultRefused)
	r.ended(t, "a1", state.ResultRolledBack)
}

func (r *rig) untouchedButRestarted(t *testing.T) {
	t.Helper()
	r.want(t, oldFiles)
	r.closed(t)
}

// TestOthersFiles checks that other targets' files in the side directories stay.
func TestOthersFiles(t *testing.T) {
	r := newRig(t)
	must(t, os.Mkdir(r.at("bin/"+sideName), 0o700))
	theirs := []string{r.at("bin/" + sideName + "/agent-b@a1.0.old"), r.at("bin/" + sideName + "/a@a1.0.new"), r.at("bin/" + sideName + "/zagent@a1.0.old")}
	mine := r.at("bin/" + sideName + "/agent@old-debris.0.new")
	for _, f := range append(theirs, mine) {
		must(t, os.WriteFile(f, []byte("x"), 0o600))
	}
	goodTrial(t, r)
	r.step(t, "commit")
	r.offer(t, "a2", "v3", 3, release3)
	r.step(t, "swap")
	r.step(t, "rollback")
	for _, f := range theirs {
		if _, err := os.Stat(f); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(mine); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("debris was not cleared: %v", err)
	}
}

// TestOtherTargetsDestination checks that a file belongs to one target only.
func TestOtherTargetsDestination(t *testing.T) {
	r := newRig(t)
	must(t, os.WriteFile(r.at("targets/thief.toml"), fmt.Appendf(nil, "unit = 'thief.service'\n[[install]]\nfrom = 'x'\nto = %q\n", r.at("bin/agent")), 0o644))
	must(t, os.WriteFile(r.at("targets/broken.toml"), []byte("rot"), 0o644))
	r.offer(t, "a1", "v2", 2, release2)
	r.fails(t, "swap", state.ResultMisconfigured, "belongs to target thief")
	r.untouched(t)
}

// fsImmutable is FS_IMMUTABLE_FL of ioctl_iflags(2).
const fsImmutable = 0x10

func immutable(t *testing.T, path string, on bool) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		t.Skipf("no file attributes here: %v", err)
	}
	flags &^= fsImmutable
	if on {
		flags |= fsImmutable
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags); err != nil {
		t.Skipf("cannot make a file immutable here: %v", err)
	}
}

// TestObstacles checks destinations that cannot be written, before and during the trial.
func TestObstacles(t *testing.T) {
	testkit.Slow(t)
	t.Run("immutable file", func(t *testing.T) {
		r := newRig(t)
		immutable(t, r.at("bin/agent"), true)
		t.Cleanup(func() { immutable(t, r.at("bin/agent"), false) })
		r.offer(t, "a1", "v2", 2, release2)
		r.fails(t, "swap", state.ResultFailed, "bin/agent", "operation not permitted", "chattr -i")
		r.untouched(t)
	})
	t.Run("immutable directory", func(t *testing.T) {
		r := newRig(t)
		immutable(t, r.at("bin"), true)
		t.Cleanup(func() { immutable(t, r.at("bin"), false) })
		r.offer(t, "a1", "v2", 2, release2)
		r.fails(t, "swap", state.ResultFailed, "cannot stage", "operation not permitted")
		r.untouched(t)
	})
	t.Run("immutable at the rename", func(t *testing.T) {
		r := newRig(t)
		r.sys.on["arm machinemon-deadline@agent.timer"] = func() { immutable(t, r.at("units/agent.service"), true) }
		t.Cleanup(func() { immutable(t, r.at("units/agent.service"), false) })
		r.offer(t, "a1", "v2", 2, release2)
		r.fails(t, "swap", state.ResultFailed, "cannot install", "units", "chattr -i")
		if r.sys.called("restart agent.service") > 0 {
			t.Error("half a release was started")
		}
		immutable(t, r.at("units/agent.service"), false)
		r.step(t, "rollback")
		r.want(t, oldFiles)
		r.closed(t)
	})
	t.Run("immutable at the rollback", func(t *testing.T) {
		r := newRig(t)
		badTrial(t, r)
		immutable(t, r.at("bin/agent"), true)
		t.Cleanup(func() { immutable(t, r.at("bin/agent"), false) })
		r.fails(t, "rollback", state.ResultRollbackFailed, "cannot restore", "bin/agent")
		immutable(t, r.at("bin/agent"), false)
		r.word(t, state.VerbSettleBack)
		r.step(t, "rollback")
		r.want(t, oldFiles)
		r.closed(t)
	})
	mount := func(t *testing.T, where, options string) {
		t.Helper()
		if err := unix.Mount("tmpfs", where, "tmpfs", 0, options); err != nil {
			t.Skipf("cannot mount here: %v", err)
		}
		t.Cleanup(func() { must(t, unix.Unmount(where, unix.MNT_DETACH)) })
	}
	t.Run("read-only", func(t *testing.T) {
		r := newRig(t)
		mount(t, r.at("bin"), "mode=755")
		r.put(t, "bin/agent", oldFiles["bin/agent"])
		must(t, unix.Mount("", r.at("bin"), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		r.offer(t, "a1", "v2", 2, release2)
		r.fails(t, "swap", state.ResultFailed, "cannot stage", "bin/agent", "read-only", "hint")
		r.untouched(t)
	})
	t.Run("full", func(t *testing.T) {
		r := newRig(t)
		mount(t, r.at("bin"), "mode=755,size=64k")
		r.put(t, "bin/agent", oldFiles["bin/agent"])
		big := maps.Clone(release2)
		big["agent"] = strings.Repeat("x", 100<<10)
		r.offer(t, "a1", "v2", 2, big)
		r.fails(t, "swap", state.ResultFailed, "it needs 102400 bytes")
		r.untouched(t)
		// The state directory is full only when the journal is to be written.
		must(t, os.RemoveAll(r.tree.Dir(state.RoleSwap, "agent")+"/journal.json"))
	})
	t.Run("full for the journal", func(t *testing.T) {
		r := newRig(t)
		dir := r.tree.Dir(state.RoleSwap, "agent")
		content, err := os.ReadFile(dir + "/status.json")
		must(t, err)
		mount(t, dir, "mode=755,size=8k") // one page for the status, and one more
		must(t, os.WriteFile(dir+"/status.json", content, 0o644))
		must(t, os.WriteFile(dir+"/filler", content, 0o644))
		r.offer(t, "a1", "v2", 2, release2)
		if err := r.do("swap"); err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("swap: %v", err)
		}
		r.want(t, oldFiles)
		r.closed(t)
		must(t, os.Remove(dir+"/filler"))
	})
}

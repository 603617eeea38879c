package command

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

func TestIdle(t *testing.T) {
	for _, c := range []struct {
		name   string
		set    func(b *bench)
		idle   bool
		failed bool
	}{
		{name: "nobody", set: func(*bench) {}, idle: true},
		{name: "a failed unit", set: func(b *bench) { b.systemd.units[unit("swap", "agent")] = systemd.Unit{Active: "failed"} }, idle: true},
		{name: "at work", set: func(b *bench) { b.systemd.units[unit("health-gate", "agent")] = systemd.Unit{Active: "activating"} }},
		{name: "the baseline at work", set: func(b *bench) { b.systemd.units[unit("baseline", "agent")] = systemd.Unit{Active: "activating"} }},
		{name: "about to start", set: func(b *bench) { b.systemd.units[unit("commit", "agent")] = systemd.Unit{Active: "inactive", Job: 7} }},
		{name: "to be retried", set: func(b *bench) {
			b.systemd.units[unit("rollback", "agent")] = systemd.Unit{Active: "activating", Sub: "auto-restart"}
		}},
		{name: "a bundle waits", set: func(b *bench) { b.offer(state.RoleFetch, attempt) }},
		{name: "a verified tree waits", set: func(b *bench) { b.offer(state.RoleVerify, attempt) }},
		{name: "a bundle waits for nobody", set: func(b *bench) {
			b.offer(state.RoleFetch, attempt)
			b.systemd.units[path("verify", "agent")] = systemd.Unit{Active: "failed"}
		}, idle: true},
		{name: "a verified tree waits for nobody", set: func(b *bench) {
			b.offer(state.RoleVerify, attempt)
			b.systemd.units[path("swap", "agent")] = systemd.Unit{Active: "inactive"}
		}, idle: true},
		{name: "a bundle waits, the other path unit is dead", set: func(b *bench) {
			b.offer(state.RoleFetch, attempt)
			b.systemd.units[path("swap", "agent")] = systemd.Unit{Active: "failed"}
		}},
		{name: "a claimed entry was left", set: func(b *bench) { b.offer(state.RoleFetch, "."+attempt) }, idle: true},
		{name: "an open trial", set: func(b *bench) {
			b.openTrial()
			b.systemd.units[deadline("agent")] = systemd.Unit{Active: "active"}
		}},
		{name: "the deadline's rollback, whose timer it has stopped", set: func(b *bench) {
			b.openTrial()
			b.systemd.units[unit("deadline", "agent")] = systemd.Unit{Active: "activating"}
		}},
		{name: "an open trial without a deadline", set: (*bench).openTrial, idle: true},
		{name: "a damaged journal", set: func(b *bench) {
			b.write(filepath.Join(b.tree.Dir(state.RoleSwap, "agent"), "journal.json"), "{")
		}, failed: true},
		{name: "a spool that is a file", set: func(b *bench) {
			b.t.Chdir(b.tree.Dir(state.RoleVerify, "agent"))
			if err := os.Remove("ready"); err != nil {
				b.t.Fatal(err)
			}
			b.write("ready", "")
		}, idle: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			c.set(b)
			units, err := b.look()
			if err != nil {
				t.Fatal(err)
			}
			idle, err := b.idle(units)
			if (err != nil) != c.failed || err == nil && idle != c.idle {
				t.Errorf("idle %v, %v; want %v, an error: %v", idle, err, c.idle, c.failed)
			}
		})
	}
}

func TestRecorded(t *testing.T) {
	for _, c := range []struct {
		name   string
		set    func(b *bench)
		result state.Result
		over   bool
		failed bool
	}{
		{name: "nothing", set: func(*bench) {}},
		{name: "another attempt", set: func(b *bench) {
			b.record(state.RoleSwap, state.Attempt{ID: "20261101t120000-00000001", Result: state.ResultCommitted})
		}},
		{name: "handed on", set: func(b *bench) {
			b.record(state.RoleFetch, state.Attempt{ID: attempt, Result: state.ResultHandedOn})
		}, result: state.ResultHandedOn},
		{name: "handed on twice", set: func(b *bench) {
			b.record(state.RoleFetch, state.Attempt{ID: attempt, Result: state.ResultHandedOn})
			b.record(state.RoleVerify, state.Attempt{ID: attempt, Result: state.ResultHandedOn})
		}, result: state.ResultHandedOn},
		{name: "on trial", set: func(b *bench) {
			b.record(state.RoleFetch, state.Attempt{ID: attempt, Result: state.ResultHandedOn})
			b.openTrial()
		}, result: state.ResultOnTrial},
		{name: "going back, on trial", set: func(b *bench) { b.openTrial() }, result: state.ResultOnTrial},
		{name: "over", set: func(b *bench) {
			b.record(state.RoleFetch, state.Attempt{ID: attempt, Result: state.ResultHandedOn})
			b.record(state.RoleVerify, state.Attempt{ID: attempt, Result: state.ResultRefused})
		}, result: state.ResultRefused, over: true},
		{name: "over, one record damaged", set: func(b *bench) {
			b.damage(state.RoleFetch)
			b.record(state.RoleSwap, state.Attempt{ID: attempt, Result: state.ResultCommitted})
		}, result: state.ResultCommitted, over: true, failed: true},
		{name: "damaged", set: func(b *bench) { b.damage(state.RoleVerify) }, failed: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.recorded(false)
			c.set(b)
			at, over, err := b.recorded(false)
			if at.ID != attempt || at.Result != c.result || over != c.over || (err != nil) != c.failed {
				t.Errorf("%+v, over %v, %v", at, over, err)
			}
		})
	}
}

// TestRecordedOnce: records that did not change are read only if that must be certain.
func TestRecordedOnce(t *testing.T) {
	b := newBench(t)
	b.record(state.RoleFetch, state.Attempt{ID: attempt, Result: state.ResultHandedOn})
	b.recorded(false)
	b.all[0].Result = state.ResultRefused // which no file says
	for certain, want := range map[bool]state.Result{false: state.ResultRefused, true: state.ResultHandedOn} {
		f := *b.follower
		if at, _, err := f.recorded(certain); at.Result != want || err != nil {
			t.Errorf("certain %v: %+v, %v, want %s", certain, at, err, want)
		}
	}
}

func TestOrphan(t *testing.T) {
	killed := systemd.Unit{Active: "failed", Sub: "failed", Result: "signal", ExecCode: 2, ExecValue: 9}
	for _, c := range []struct {
		name   string
		first  string
		failed []string
		want   string
	}{
		{"none", "fetch", nil, "the chain stopped and none of its units failed; nothing was changed (hint: journalctl -u 'machinemon-*@agent.service')"},
		{"verifier", "fetch", []string{"machinemon-verify@agent.service"},
			"machinemon-verify@agent.service failed (signal): failed (failed), its main process was killed by signal 9; nothing was changed"},
		{"the fetcher of the archive, after the verifier", "fetch", []string{"machinemon-verify@agent.service", "machinemon-fetch-full@agent.service"},
			"machinemon-fetch-full@agent.service failed (signal)"},
		{"the path unit", "fetch", []string{"machinemon-verify@agent.path"}, "machinemon-verify@agent.path failed "},
		{"an older failure further on", "fetch", []string{"machinemon-verify@agent.service", "machinemon-rollback@agent.service"}, "machinemon-verify@agent.service failed "},
		{"the baseline stops nobody", "fetch", []string{"machinemon-baseline@agent.service", "machinemon-swap@agent.service"}, "machinemon-swap@agent.service failed "},
		{"an older failure before the first", "swap", []string{"machinemon-fetch@agent.service", "machinemon-swap@agent.service"}, "machinemon-swap@agent.service failed "},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.first = unit(c.first, "agent")
			for _, name := range c.failed {
				b.systemd.units[name] = killed
			}
			units, err := b.look()
			if err != nil {
				t.Fatal(err)
			}
			at, err := b.orphan(t.Context(), units)
			if err != nil {
				t.Fatal(err)
			}
			if at.ID != attempt || at.Result != state.ResultFailed || at.Time.IsZero() || !strings.HasPrefix(at.Reason, c.want) {
				t.Errorf("%+v\nwant %s", at, c.want)
			}
		})
	}
}

func TestFollow(t *testing.T) {
	verify, fetching := unit("verify", "agent"), systemd.Unit{Active: "activating"}
	lastRead := deadline("agent") // the last unit of a look at the units
	for _, c := range []struct {
		name   string
		set    func(b *bench)
		result state.Result
		reason string
	}{
		{"over already", func(b *bench) {
			b.record(state.RoleFetch, state.Attempt{ID: attempt, Result: state.ResultCurrent})
		}, state.ResultCurrent, ""},
		{"over after a change", func(b *bench) {
			b.systemd.units[unit("fetch", "agent")] = fetching
			b.systemd.read = func(look int, name string) {
				if look == 2 && name == lastRead {
					b.record(state.RoleFetch, state.Attempt{ID: attempt, Result: state.ResultNotDownloaded})
				}
				if look == 4 { // the unit ends a while after its record
					delete(b.systemd.units, unit("fetch", "agent"))
				}
				if name == lastRead {
					b.systemd.ticks <- struct{}{}
				}
			}
		}, state.ResultNotDownloaded, ""},
		{"nobody", func(*bench) {}, state.ResultFailed, "none of its units failed"},
		// The verifier starts and claims the bundle after the units were read and before
		// the spool is read.
		{"claimed in between", func(b *bench) {
			b.record(state.RoleFetch, state.Attempt{ID: attempt, Result: state.ResultHandedOn})
			b.offer(state.RoleFetch, attempt)
			b.systemd.read = func(look int, name string) {
				switch {
				case look == 1 && name == lastRead:
					b.claim(state.RoleFetch)
					b.systemd.units[verify] = systemd.Unit{Active: "activating"}
				case look == 2 && name == lastRead:
					b.record(state.RoleVerify, state.Attempt{ID: attempt, Result: state.ResultRefused, Reason: "too old"})
					delete(b.systemd.units, verify)
					b.systemd.ticks <- struct{}{}
				}
			}
		}, state.ResultRefused, "too old"},
		// The same happens twice, with the verifier and the swapper.
		{"claimed in between, twice", func(b *bench) {
			b.offer(state.RoleFetch, attempt)
			b.systemd.read = func(look int, name string) {
				switch {
				case look == 1 && name == lastRead:
					b.claim(state.RoleFetch)
					b.systemd.units[verify] = systemd.Unit{Active: "activating"}
				case look == 2 && name == lastRead:
					b.offer(state.RoleVerify, attempt)
					delete(b.systemd.units, verify)
					b.systemd.ticks <- struct{}{}
				case look == 3 && name == lastRead:
					b.claim(state.RoleVerify)
					b.systemd.units[unit("swap", "agent")] = systemd.Unit{Active: "activating"}
				case look == 4 && name == lastRead:
					b.record(state.RoleSwap, state.Attempt{ID: attempt, Result: state.ResultFailed, Reason: "too old"})
					delete(b.systemd.units, unit("swap", "agent"))
					b.systemd.ticks <- struct{}{}
				}
			}
		}, state.ResultFailed, "too old"},
		// As above, but the verifier ends before the second look does.
		{"ended in between", func(b *bench) {
			b.record(state.RoleFetch, state.Attempt{ID: attempt, Result: state.ResultHandedOn})
			b.systemd.read = func(look int, name string) {
				if look == 2 && name == verify {
					b.record(state.RoleVerify, state.Attempt{ID: attempt, Result: state.ResultRefused, Reason: "too old"})
				}
			}
		}, state.ResultRefused, "too old"},
		// The verifier fails and so starts fetch-full, whose unit was read before.
		{"the verifier asks for the archive", func(b *bench) {
			b.record(state.RoleFetch, state.Attempt{ID: attempt, Result: state.ResultHandedOn})
			b.systemd.units[verify] = systemd.Unit{Active: "activating"}
			full := unit("fetch-full", "agent")
			b.systemd.read = func(look int, name string) {
				switch {
				case look == 1 && name == full:
					b.systemd.units[verify] = systemd.Unit{Active: "failed"}
				case look == 1 && name == lastRead:
					b.systemd.units[full] = systemd.Unit{Active: "inactive", Job: 7}
				case look == 2 && name == lastRead:
					b.record(state.RoleFetch, state.Attempt{ID: attempt, Result: state.ResultNotDownloaded, Reason: "it is gone"})
					delete(b.systemd.units, full)
					b.systemd.ticks <- struct{}{}
				}
			}
		}, state.ResultNotDownloaded, "it is gone"},
		{"a damaged record beside the end", func(b *bench) {
			b.damage(state.RoleFetch)
			b.record(state.RoleSwap, state.Attempt{ID: attempt, Result: state.ResultCommitted})
		}, state.ResultCommitted, ""},
		{"a damaged record while somebody works", func(b *bench) {
			b.damage(state.RoleFetch)
			b.systemd.units[unit("swap", "agent")] = systemd.Unit{Active: "activating"}
			b.systemd.read = func(look int, name string) {
				if name == lastRead {
					b.record(state.RoleSwap, state.Attempt{ID: attempt, Result: state.ResultRolledBack})
					delete(b.systemd.units, unit("swap", "agent"))
					b.systemd.ticks <- struct{}{}
				}
			}
		}, state.ResultRolledBack, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			c.set(b)
			at, err := b.follow(t.Context())
			if err != nil || at.ID != attempt || at.Result != c.result || !strings.Contains(at.Reason, c.reason) {
				t.Errorf("%+v, %v", at, err)
			}
			b.systemd.read = nil
			if units, err := b.look(); err != nil || busy(units) {
				t.Errorf("it is over, and somebody works: %+v, %v", units, err)
			}
		})
	}

	t.Run("damaged, and nobody at work", func(t *testing.T) {
		b := newBench(t)
		b.damage(state.RoleVerify)
		if at, err := b.follow(t.Context()); err == nil || !strings.Contains(err.Error(), "it is damaged") {
			t.Errorf("%+v, %v", at, err)
		}
	})
	t.Run("systemd does not answer", func(t *testing.T) {
		b := newBench(t)
		b.systemd.err = errors.New("gone")
		if at, err := b.follow(t.Context()); !errors.Is(err, b.systemd.err) {
			t.Errorf("%+v, %v", at, err)
		}
	})
	t.Run("left", func(t *testing.T) {
		b := newBench(t)
		b.openTrial()
		b.systemd.units[deadline("agent")] = systemd.Unit{Active: "active"}
		ctx, cancel := context.WithCancel(t.Context())
		b.systemd.read = func(_ int, name string) {
			if name == lastRead {
				cancel()
			}
		}
		if at, err := b.follow(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%+v, %v", at, err)
		}
	})
}

// TestWarnOfDescent: an operator is told once, before the end, of a lower version.
func TestWarnOfDescent(t *testing.T) {
	const line = "agent: warning: 2.53.9 is lower than the installed 3.5.0\n"
	for _, c := range []struct {
		name string
		at   state.Attempt
		want string
	}{
		{"down", state.Attempt{From: "3.5.0", Version: "2.53.9", Result: state.ResultHandedOn}, line},
		{"up", state.Attempt{From: "2.53.9", Version: "3.5.0", Result: state.ResultHandedOn}, ""},
		{"no order", state.Attempt{From: "build-82", Version: "build-17", Result: state.ResultHandedOn}, ""},
		{"nothing known", state.Attempt{Version: "2.53.9", Result: state.ResultHandedOn}, ""},
		{"not installed", state.Attempt{From: "3.5.0", Version: "2.53.9", Result: state.ResultNotAttempted}, ""},
		{"a terminal's commands", state.Attempt{From: "3.5.0", Version: "2.53.9\x1b[2J", Result: state.ResultHandedOn}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			c.at.ID = attempt
			b.record(state.RoleFetch, c.at)
			for range 2 {
				at, _, err := b.recorded(false)
				if err != nil {
					t.Fatal(err)
				}
				b.warn(at)
			}
			if got := b.said.String(); got != c.want {
				t.Errorf("said %q, want %q", got, c.want)
			}
			b.follower.progress = nil // --json
			b.warned = false
			b.warn(c.at)
		})
	}
}

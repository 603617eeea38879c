package swap

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

func (r *rig) order(t *testing.T) state.Order {
	t.Helper()
	o, err := r.tree.Order("agent")
	must(t, err)
	return o
}

// TestBegin checks what root decides about an attempt.
func TestBegin(t *testing.T) {
	testkit.Slow(t)
	t.Run("schedule", func(t *testing.T) {
		r := newRig(t)
		r.step(t, "begin")
		first := r.order(t)
		if first.Origin != state.OriginSchedule || first.Verb != state.VerbApply || first.Installed != "v1" || !first.Attempt.Valid() {
			t.Errorf("order %+v", first)
		}
		r.configure(t, "")
		must(t, os.WriteFile(r.at("admin/agent.toml"), []byte("auto_update_enabled = false\n"), 0o644))
		r.step(t, "begin")
		if o := r.order(t); o.Verb != state.VerbCheck || o.Attempt == first.Attempt {
			t.Errorf("order %+v", o)
		}
	})
	t.Run("operator, once", func(t *testing.T) {
		r := newRig(t)
		must(t, os.WriteFile(r.at("admin/agent.toml"), []byte("auto_update_enabled = false\n"), 0o644))
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: state.VerbApply}))
		r.step(t, "begin")
		if o := r.order(t); o.Attempt != "op-1" || o.Origin != state.OriginOperator || o.Verb != state.VerbApply {
			t.Errorf("order %+v", o)
		}
		r.step(t, "begin")
		if o := r.order(t); o.Attempt == "op-1" || o.Verb != state.VerbCheck {
			t.Errorf("order %+v", o)
		}
	})
	t.Run("refused, and recorded where an operator asked", func(t *testing.T) {
		r := newRig(t)
		r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: "inactive"}
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: state.VerbApply}))
		r.fails(t, "begin", state.ResultNotAttempted, "is stopped")
		r.ended(t, "op-1", state.ResultNotAttempted, "is stopped")
		// A check needs no unit.
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-2", Verb: state.VerbCheck}))
		r.step(t, "begin")
	})
	t.Run("the schedule only looks where nothing can be updated", func(t *testing.T) {
		r := newRig(t)
		for _, u := range []systemd.Unit{{Load: "loaded", Active: "inactive"}, {Load: "masked", Active: "inactive"}, {Load: "not-found", Active: "inactive"}} {
			r.sys.units["agent.service"] = u
			r.step(t, "begin")
			if o := r.order(t); o.Verb != state.VerbCheck {
				t.Errorf("%+v: order %+v", u, o)
			}
		}
	})
	t.Run("after a boot", func(t *testing.T) {
		r := newRig(t)
		for up, want := range map[time.Duration]bool{time.Minute: true, 9 * time.Minute: true, 10 * time.Minute: false, 240 * time.Hour: false} {
			r.sys.up = up
			r.step(t, "begin")
			if o := r.order(t); o.Booted != want {
				t.Errorf("up for %s: order %+v", up, o)
			}
		}
		r.sys.up = time.Minute
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: state.VerbApply}))
		r.step(t, "begin") // an operator is told at once and may ask again
		if r.order(t).Booted {
			t.Error("an operator's attempt is to be made again")
		}
	})
	t.Run("a failed unit is updated", func(t *testing.T) {
		r := newRig(t)
		r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: "failed"}
		r.step(t, "begin")
	})
	t.Run("held", func(t *testing.T) {
		r := newRig(t)
		hold := func(h *state.Hold) {
			must(t, r.tree.Update(state.RoleSwap, "agent", func(s *state.Status) { s.Held = h }))
		}
		r.offer(t, "a1", "v2", 2, release2) // the hold comes after the order
		hold(&state.Hold{Since: time.Now()})
		r.fails(t, "swap", state.ResultNotAttempted, "it is held since", "(hint: sudo machinemon-update unhold agent)")
		r.want(t, oldFiles)
		r.step(t, "begin") // a scheduled attempt still checks
		if o := r.order(t); o.Verb != state.VerbCheck {
			t.Errorf("order %+v", o)
		}
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: state.VerbApply}))
		r.fails(t, "begin", state.ResultNotAttempted, "it is held since", "(hint: sudo machinemon-update unhold agent)")
		hold(nil)
		r.step(t, "begin")
		if o := r.order(t); o.Verb != state.VerbApply {
			t.Errorf("order %+v", o)
		}
	})
	t.Run("changed by hand", func(t *testing.T) {
		r := newRig(t)
		must(t, os.WriteFile(r.at("bin/agent"), []byte("by hand"), 0o755))
		r.step(t, "begin")
		if o := r.order(t); o.Verb != state.VerbCheck {
			t.Errorf("order %+v", o)
		}
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: state.VerbApply}))
		r.step(t, "begin")
		if o := r.order(t); o.Verb != state.VerbApply {
			t.Errorf("order %+v", o)
		}
	})
	t.Run("no source", func(t *testing.T) {
		r := newRig(t)
		content, err := os.ReadFile(r.at("targets/agent.toml"))
		must(t, err)
		_, rest, _ := strings.Cut(string(content), "[[install]]")
		must(t, os.WriteFile(r.at("targets/agent.toml"), []byte("unit = 'agent.service'\n[[install]]"+rest), 0o644))
		r.fails(t, "begin", state.ResultMisconfigured, "no source is configured")
		// A person who names an archive needs none.
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: state.VerbApply, URL: "https://example.com/agent.tar.gz", SHA256: sum("archive")}))
		r.step(t, "begin")
		if o := r.order(t); o.Attempt != "op-1" || o.URL != "https://example.com/agent.tar.gz" {
			t.Errorf("order %+v", o)
		}
	})
	t.Run("no release is recorded", func(t *testing.T) {
		r := newRig(t)
		must(t, r.tree.SetStatus(state.RoleSwap, "agent", state.Status{}))
		r.step(t, "begin")
		if o := r.order(t); o.Origin != state.OriginSchedule || o.Verb != state.VerbApply {
			t.Errorf("order %+v", o)
		}
	})
	t.Run("import", func(t *testing.T) {
		r := newRig(t)
		left := r.tree.Import("agent")
		must(t, os.MkdirAll(left, 0o700))
		must(t, os.WriteFile(filepath.Join(left, "archive"), nil, 0o600))
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: state.VerbApply, Import: true}))
		r.sys.units["machinemon-fetch@agent.service"] = systemd.Unit{User: "nobody"} // which this machine has
		r.step(t, "begin")
		for name, mode := range map[string]os.FileMode{"": 0o750, "archive": 0o640} {
			i, err := os.Stat(filepath.Join(left, name))
			must(t, err)
			if st := i.Sys().(*syscall.Stat_t); i.Mode().Perm() != mode || st.Uid != 0 || st.Gid != 65534 {
				t.Errorf("%q is of %d:%d with %v, and is for root and the fetcher's group", name, st.Uid, st.Gid, i.Mode())
			}
		}
		if o := r.order(t); !o.Import || o.Verb != state.VerbApply {
			t.Errorf("order %+v", o)
		}
		if _, err := os.Stat(left); err != nil {
			t.Errorf("what was brought is gone: %v", err)
		}
		r.step(t, "begin")
		if o := r.order(t); o.Import {
			t.Errorf("order %+v", o)
		}
		if _, err := os.Stat(left); err == nil {
			t.Error("what a killed command left is still there")
		}
	})
	t.Run("source from another file", func(t *testing.T) {
		r := newRig(t)
		client := r.at("etc/client.toml")
		must(t, os.WriteFile(r.at("admin/agent.toml"), []byte("[source]\ntype = 'manifest'\nurl_from = { file = '"+client+"', key = 'server_url', append = '/m.json' }\n"), 0o644))
		asks := func(verb state.Verb) {
			t.Helper()
			must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: verb}))
		}
		uses := func(url string) *state.Source {
			t.Helper()
			s := r.status(t).Source
			if url == "" && s != nil || url != "" && (s == nil || s.URL != url || time.Since(s.Since) > time.Hour) {
				t.Errorf("the source is %+v, want %q", s, url)
			}
			return s
		}
		r.step(t, "begin") // a scheduled attempt needs no file, and reads none
		uses("")
		asks(state.VerbApply)
		r.fails(t, "begin", state.ResultMisconfigured, client+": does not exist")
		r.ended(t, "op-1", state.ResultMisconfigured, "does not exist")
		must(t, os.WriteFile(client, []byte("server_url = 'https://one.example.com'\npassword = 'hunter2'\n"), 0o600))
		asks(state.VerbCheck)
		r.step(t, "begin")
		one := uses("https://one.example.com/m.json")
		asks(state.VerbApply)
		r.step(t, "begin")
		if again := uses(one.URL); again.Since != one.Since {
			t.Errorf("known since %v, now since %v", one.Since, again.Since)
		}
		must(t, os.WriteFile(client, []byte("server_url = 'https://two.example.com'\n"), 0o600))
		r.step(t, "begin")
		uses(one.URL)
		r.sys.units["agent.service"] = systemd.Unit{Load: "loaded", Active: "inactive"}
		asks(state.VerbApply)
		r.fails(t, "begin", state.ResultNotAttempted, "is stopped")
		uses(one.URL)
		delete(r.sys.units, "agent.service")
		asks(state.VerbApply)
		r.step(t, "begin")
		uses("https://two.example.com/m.json")
		must(t, os.WriteFile(client, []byte("server_url = 'https://u:hunter2@two.example.com'\n"), 0o600))
		asks(state.VerbApply)
		r.fails(t, "begin", state.ResultMisconfigured, client+": server_url: must be a URL")
		uses("https://two.example.com/m.json")
		if log := r.log.String(); strings.Contains(log, "hunter2") || !strings.Contains(log, "agent: its source is https://two.example.com/m.json, as "+client+" says") {
			t.Errorf("log:\n%s", log)
		}
	})
	t.Run("a name that is none", func(t *testing.T) {
		r := newRig(t)
		for _, name := range []string{"", "../agent", "Agent", "a@b", "a\nb"} {
			if err := r.sw.Begin(t.Context(), name); ExitStatus(err) != 2 {
				t.Errorf("%q: %v", name, err)
			}
		}
	})
	t.Run("the target file is newer than its units", func(t *testing.T) {
		r := newRig(t)
		r.step(t, "begin")
		if r.sys.called("reload") > 0 {
			t.Error("systemd was reloaded for nothing")
		}
		r.sys.units["machinemon-swap@agent.service"] = systemd.Unit{Active: "inactive", Writable: []string{r.at("bin"), r.at("units")}}
		r.step(t, "begin")
		if r.sys.called("reload") != 1 {
			t.Errorf("calls: %q", r.sys.calls)
		}
	})
	t.Run("systemd does not know the account", func(t *testing.T) {
		r := newRig(t)
		r.sys.units["machinemon-fetch@agent.service"] = systemd.Unit{Active: "activating", User: "machinemon-fetch"}
		r.step(t, "begin")
		if r.sys.called("reload") != 1 || r.sys.called("start machinemon-accounts@agent.service") != 1 {
			t.Errorf("calls: %q", r.sys.calls)
		}
	})
}

// TestBeginSettles checks that no attempt begins while another is under way, and that
// what a dead one left is finished first.
func TestBeginSettles(t *testing.T) {
	testkit.Slow(t)
	t.Run("alive", func(t *testing.T) {
		for _, step := range []string{"verify", "fetch-full", "swap", "health-gate", "commit", "rollback", "baseline"} {
			r := newRig(t)
			badTrial(t, r)
			r.sys.units[unitOf(step, "agent")] = systemd.Unit{Active: "activating"}
			r.fails(t, "begin", state.ResultNotAttempted, "under way", unitOf(step, "agent"))
			r.want(t, newFiles)
		}
	})
	t.Run("alive, and an operator asks", func(t *testing.T) {
		for _, step := range []string{"swap", "baseline"} {
			r := newRig(t)
			must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: state.VerbApply}))
			r.sys.units[unitOf(step, "agent")] = systemd.Unit{Active: "activating"}
			r.fails(t, "begin", state.ResultNotAttempted, "under way")
			r.ended(t, "op-1", state.ResultNotAttempted, "under way", unitOf(step, "agent"))
			if req, err := r.tree.Request("agent"); err != nil || req != nil {
				t.Errorf("%s: the request is %+v, %v", step, req, err)
			}
		}
	})
	t.Run("the operator's way back is not the schedule's to take", func(t *testing.T) {
		r := newRig(t)
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: state.VerbRollback}))
		r.sys.units[unitOf("baseline", "agent")] = systemd.Unit{Active: "activating"}
		r.fails(t, "begin", state.ResultNotAttempted, "under way")
		if req, err := r.tree.Request("agent"); err != nil || req == nil {
			t.Errorf("the request is %+v, %v", req, err)
		}
		delete(r.sys.units, unitOf("baseline", "agent")) // the command was killed before it started a unit
		r.step(t, "begin")
		if req, err := r.tree.Request("agent"); err != nil || req != nil {
			t.Errorf("the request is %+v, %v", req, err)
		}
	})
	t.Run("no retries for ever", func(t *testing.T) {
		r := newRig(t)
		r.sys.units[unitOf("fetch", "agent")] = systemd.Unit{Active: "activating", NRestarts: 3}
		r.sys.up = 9 * time.Minute
		r.step(t, "begin")
		r.sys.up = 10 * time.Minute
		r.fails(t, "begin", state.ResultNotAttempted, "the ten minutes after the boot are over")
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "op-1", Verb: state.VerbApply}))
		r.step(t, "begin")
	})
	t.Run("open trial", func(t *testing.T) {
		r := newRig(t)
		badTrial(t, r)
		r.step(t, "begin")
		r.want(t, oldFiles)
		r.closed(t)
		r.ended(t, "a1", state.ResultRolledBack)
	})
	t.Run("open commit", func(t *testing.T) {
		r := newRig(t)
		goodTrial(t, r)
		j, err := r.tree.Journal("agent")
		must(t, err)
		j.Verdict = state.VerdictCommit
		must(t, r.tree.SetJournal(j))
		r.step(t, "begin")
		r.want(t, newFiles)
		r.closed(t)
		if got := r.order(t).Installed; got != "v2" {
			t.Errorf("installed %q", got)
		}
	})
	t.Run("bundle under way", func(t *testing.T) {
		r := newRig(t)
		r.offer(t, "a1", "v2", 2, release2)
		r.fails(t, "begin", state.ResultNotAttempted, "under way")
	})
	t.Run("dead path unit", func(t *testing.T) {
		for _, entry := range []string{"", "a1", "NO ID", "a FIFO"} {
			r := newRig(t)
			ready := r.tree.Ready(state.RoleVerify, "agent")
			must(t, os.Mkdir(ready, 0o770))
			switch entry {
			case "":
			case "a FIFO":
				must(t, fifo(ready+"/fifo"))
			default:
				must(t, os.Mkdir(ready+"/"+entry, 0o755))
			}
			r.sys.units["machinemon-swap@agent.path"] = systemd.Unit{Active: "failed"}
			if err := r.do("begin"); err != nil {
				t.Errorf("%q: %v", entry, err)
				continue
			}
			if !r.sys.order("reset machinemon-swap@agent.service", "reset machinemon-swap@agent.path", "start machinemon-swap@agent.path") {
				t.Errorf("%q: calls %q", entry, r.sys.calls)
			}
			if left := testkit.Names(t, ready); len(left) > 0 {
				t.Errorf("%q: the spool holds %q", entry, left)
			}
			if slices.Contains(r.sys.calls, "start machinemon-verify@agent.path") {
				t.Errorf("%q: a path unit that is alive was started", entry)
			}
		}
	})
	t.Run("no inotify instance is left", func(t *testing.T) {
		r := newRig(t)
		const path = "machinemon-swap@agent.path"
		r.sys.units[path] = systemd.Unit{Active: "failed", Result: "resources"}
		r.sys.fails["start "+path] = &systemd.JobError{Verb: "start", Unit: path, Result: "failed"}
		r.fails(t, "begin", state.ResultFailed, "fs.inotify.max_user_instances")
	})
	t.Run("systemd is gone", func(t *testing.T) {
		r := newRig(t)
		r.sys.fails["unit machinemon-verify@agent.service"] = errors.New("no answer")
		r.fails(t, "begin", state.ResultFailed, "no answer")
	})
}

// TestInstalled checks which source decides about the installed version.
func TestInstalled(t *testing.T) {
	r := newRig(t)
	ask := func() string {
		tt, err := r.sw.Targets.Load("agent")
		must(t, err)
		return installed.Version(t.Context(), tt, r.status(t))
	}
	if got := ask(); got != "v1" {
		t.Errorf("by the record: %q", got)
	}
	r.put(t, "bin/agent", file{"#!/bin/sh\nid -u\necho agent 9.8.7\nexit 1\n", 0o755, 0})
	if got := ask(); got != "" {
		t.Errorf("changed by hand: %q", got)
	}
	r.configure(t, "version_command = ['"+r.at("bin/agent")+"', '--version']\n")
	if got := ask(); got != "9.8.7" {
		t.Errorf("by the program: %q", got)
	}
	r.put(t, "bin/agent", file{"#!/bin/sh\necho \"v$(id -u).$(id -g).0\"\nsleep 60 &\nyes | head -c 1000000\n", 0o755, 0})
	within(t, func() {
		if got := ask(); got != "v65534.65534.0" {
			t.Errorf("not asked as nobody: %q", got)
		}
	})
}

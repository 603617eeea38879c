package command

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
)

// TestReasonIsOver: after unhold, unskip and trust, status no longer says why the last
// attempt was refused; history does.
func TestReasonIsOver(t *testing.T) {
	at := time.Unix(0, 0)
	held := policy.Held("agent", state.Status{Held: &state.Hold{Since: at}})
	rejection := state.Rejection{Version: "2.0.0", Archive: "a", Time: at, Reason: "the operator skips it"}
	for name, c := range map[string]struct {
		mode string
		to   string // "" for a directory that there is
		last state.Attempt
		swap func(*state.Status)
		pin  bool
		says bool
		note string // which status shows then
	}{
		"unheld":    {last: state.Attempt{Result: state.ResultNotAttempted, Reason: held.String()}},
		"rejected":  {last: state.Attempt{Result: state.ResultNotAttempted, Version: "2.0.0", Reason: rejection.Refusal()}, swap: func(s *state.Status) { s.Rejected = []state.Rejection{rejection} }, says: true},
		"unskipped": {last: state.Attempt{Result: state.ResultNotAttempted, Version: "2.0.0", Reason: rejection.Refusal()}},
		"no keys":   {mode: "trust = { mode = 'signature', product = 'a' }\n", last: state.Attempt{Result: state.ResultRefused, Reason: noKeys}, says: true, note: " unpinned "},
		"no attempt since": {mode: "trust = { mode = 'signature', product = 'a' }\n", last: state.Attempt{Result: state.ResultCurrent}, says: true,
			note: "cannot trust any release of agent: there is no /trust/agent.key (hint: sudo machinemon-update trust agent FILE --sha256 HEX)"},
		"trusted":      {mode: "trust = { mode = 'signature', product = 'a' }\n", last: state.Attempt{Result: state.ResultRefused, Reason: noKeys}, pin: true, note: " signed "},
		"mended":       {last: state.Attempt{Result: state.ResultMisconfigured, Reason: "cannot use target agent: /admin/agent.toml:1: unti: is not a known key"}, note: "\n  the target file can be used now\n"},
		"not mended":   {to: "/nonexistent/a", last: state.Attempt{Result: state.ResultMisconfigured, Reason: "cannot use target agent: /admin/agent.toml:2: install.to: /nonexistent: no such file or directory"}, says: true},
		"another file": {last: state.Attempt{Result: state.ResultMisconfigured, Reason: "cannot use target agent: /root/client.toml: does not exist"}, says: true},
		"another":      {last: state.Attempt{Result: state.ResultNotAttempted, Reason: "another attempt is under way"}, says: true},
	} {
		t.Run(name, func(t *testing.T) {
			a, out, _ := newApp(t)
			write(t, filepath.Join(a.targets.Root, a.targets.Admin, "agent.toml"), c.mode+"unit = 'agent.service'\ninstall = [{ from = 'a', to = '"+cmp.Or(c.to, "/usr/local/bin/a")+"' }]\n")
			ok(t, os.MkdirAll(filepath.Join(a.targets.Root, "usr/local/bin"), 0o755))
			c.last.ID, c.last.Time, c.last.Stage = "a-1", at, "swap"
			ok(t, os.MkdirAll(a.tree.Dir(state.RoleSwap, "agent"), 0o755))
			ok(t, a.tree.Update(state.RoleSwap, "agent", func(s *state.Status) {
				s.Attempts = []state.Attempt{c.last}
				if c.swap != nil {
					c.swap(s)
				}
			}))
			if c.pin {
				write(t, filepath.Join(a.targets.Root, "trust/agent.key"), "key")
			}
			for _, verb := range []string{"status", "history"} {
				out.Reset()
				a.main([]string{verb, "agent"}, "")
				if says := strings.Contains(out.String(), c.last.Reason); says != (c.says || verb == "history") {
					t.Errorf("%s:\n%s", verb, out)
				}
				if verb == "status" && !strings.Contains(out.String(), c.note) {
					t.Errorf("no %q:\n%s", c.note, out)
				}
			}
		})
	}
}

const noKeys = "cannot trust any release of agent: there is no /trust/agent.key (hint: …)"

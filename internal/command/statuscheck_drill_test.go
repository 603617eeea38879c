package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// TestCheckAfterDrill: a drill neither ends nor begins an alarm, unless its rollback failed.
func TestCheckAfterDrill(t *testing.T) {
	for _, c := range []struct {
		before state.Result // "": nothing
		drill  state.Result
		exit   int
		says   string
	}{
		{state.ResultRolledBack, state.ResultDrilled, 1, `"result":"rolled back"`},
		{state.ResultCommitted, state.ResultFailed, 0, `"result":"committed"`},
		{"", state.ResultFailed, 0, `{"target":"agent","installed":"unknown"}`},
		{state.ResultCommitted, state.ResultRollbackFailed, 1, `"result":"rollback failed"`},
	} {
		a, out, _ := newApp(t)
		write(t, filepath.Join(a.targets.Root, a.targets.Admin, "agent.toml"), "unit = 'agent.service'\ninstall = [{ from = 'a', to = '/usr/local/bin/a' }]\n")
		ok(t, os.MkdirAll(a.tree.Dir(state.RoleSwap, "agent"), 0o755))
		at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
		ok(t, a.tree.Update(state.RoleSwap, "agent", func(s *state.Status) {
			if c.before != "" {
				s.Record(state.Attempt{ID: "a-1", Time: at, Origin: state.OriginOperator, Result: c.before, Version: "1.1.0"})
			}
			s.Record(state.Attempt{ID: "a-2", Time: at, Origin: state.OriginOperator, Result: c.drill, Version: "drill", Drill: true})
		}))
		if exit := a.main([]string{"status", "--check", "agent"}, ""); exit != c.exit || !strings.Contains(out.String(), c.says) {
			t.Errorf("%+v: exit status %d: %s", c, exit, out)
		}
	}
}

package state

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzRecords: whatever a file of the state has, no reader dies of it, and a journal or a
// status that is read can be written and read again.
func FuzzRecords(f *testing.F) {
	for _, seed := range []string{
		`{"format": 1, "target": "agent", "attempt": "a1", "unit": "agent.service", "phase": "trial", "changes": [{"kind": "replace", "to": "/opt/agent", "staged": "/opt/.s", "backup": "/opt/.b", "old": "00", "new": "11", "tree": {"keep": ["data"]}}], "again": {"tries": 1}}`,
		`{"format": 1, "installed": {"version": "1.0.0", "files": [{"to": "/opt/agent", "sha256": "00", "tree": {"releases": "/opt/r"}}]}, "rejected": [{"version": "2"}], "attempts": [{"id": "a1", "result": "committed"}]}`,
		`{"format": 1, "attempt": "a1", "verb": "apply", "origin": "timer", "files": [{"entry": "agent", "name": "0"}]}`,
		`{"format": 99}`, `{"changes": [null], "installed": null, "attempts": {}}`, `[]`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		tree := newTree(t)
		put := func(path string) {
			must(t, os.MkdirAll(filepath.Dir(path), 0o755))
			must(t, os.WriteFile(path, content, 0o644))
		}
		put(tree.journal("agent"))
		if j, err := tree.Journal("agent"); err == nil && j != nil {
			_, _, _, _ = j.Units(), j.NewFiles(), j.Unsettled(), j.Again.String()
			if err := tree.SetJournal(j); err == nil {
				again, err := tree.Journal("agent")
				if err != nil || again == nil || again.Attempt != j.Attempt || len(again.Changes) != len(j.Changes) {
					t.Errorf("%+v\n%+v, %v", j, again, err)
				}
			}
		}
		for _, role := range []Role{RoleFetch, RoleVerify, RoleSwap} {
			put(tree.status(role, "agent"))
			st, err := tree.Status(role, "agent")
			if err != nil {
				continue
			}
			if err := tree.SetStatus(role, "agent", st); err == nil {
				if again, err := tree.Status(role, "agent"); err != nil || len(again.Attempts) != len(st.Attempts) || len(again.Rejected) != len(st.Rejected) {
					t.Errorf("%+v\n%+v, %v", st, again, err)
				}
			}
		}
		for _, dir := range []string{tree.Run, tree.Gate("agent"), tree.Dir(RoleSwap, "agent")} {
			names, err := filepath.Glob(filepath.Join(dir, "*", "agent*.json"))
			must(t, err)
			for _, name := range append(names, filepath.Join(tree.Gate("agent"), "report.json"), filepath.Join(tree.Gate("agent"), "baseline.json")) {
				put(name)
			}
		}
		must(t, os.MkdirAll(filepath.Join(tree.Run, "request"), 0o755))
		put(filepath.Join(tree.Run, "request", "agent.json"))
		_, _ = tree.Request("agent")
		_, _ = tree.Order("agent")
		_, _ = tree.Handover("agent")
		_, _ = tree.Report("agent", "a1")
		_, _ = tree.Baseline("agent", "a1")
	})
}

package target

import (
	"os"
	"testing"
	"time"
)

// TestRulesChanged: a target file that was put in place counts as changed at that time, also
// one whose modification time is an old one.
func TestRulesChanged(t *testing.T) {
	d := tree(t, map[string]string{adminFile: minimal})
	long := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, path := range []string{adminFile, d.Admin} {
		must(t, os.Chtimes(d.Root+path, long, long))
	}
	agent, err := d.Load("agent")
	must(t, err)
	if ago := time.Since(agent.Rules().Changed); ago < 0 || ago > time.Minute {
		t.Errorf("it was changed %s ago", ago)
	}
}

package swap

import (
	"os"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
)

// TestBeginReadsNoProgram: a check reads no program that is as the check before has seen it, and
// another one once. A program that was written since counts as changed by hand.
func TestBeginReadsNoProgram(t *testing.T) {
	const size = 2 << 20
	r := newRig(t)
	r.put(t, "bin/agent", file{strings.Repeat("old ", size/4), 0o755, 12})
	age(t, r.at("bin/agent"))
	must(t, r.tree.Update(state.RoleSwap, "agent", func(s *state.Status) {
		for i, f := range s.Installed.Files {
			sum, err := f.Digest()
			must(t, err)
			s.Installed.Files[i].SHA256 = sum
		}
	}))
	check := func() (read int) {
		before := readBytes(t)
		r.step(t, "begin")
		return readBytes(t) - before
	}
	check()
	none := check() // what else a check reads
	for _, c := range []struct {
		name   string
		breaks func()
		reads  int // of programs
	}{
		{"as it was", func() {}, 0},
		{"touched", func() { age(t, r.at("bin/agent")) }, 1},
		{"as it was again", func() {}, 0},
		{"another boot", func() { must(t, os.Remove(r.at("run/attempt/agent.json"))) }, 1},
	} {
		c.breaks()
		got := check()
		if reads := (got - none + size/2) / size; reads != c.reads {
			t.Errorf("%s: read %d bytes beside %d, %d programs, want %d", c.name, got-none, none, reads, c.reads)
		}
		if o := r.order(t); o.Verb != state.VerbApply || o.Installed != "v1" || len(o.Looked) != 1 {
			t.Errorf("%s: order %+v", c.name, o)
		}
	}
	writeUnseen(t, r.at("bin/agent"), size/2)
	r.step(t, "begin")
	if o := r.order(t); o.Verb != state.VerbCheck || o.Installed != "" {
		t.Errorf("order %+v", o)
	}
	r.put(t, "bin/agent", file{strings.Repeat("old ", size/4), 0o755, 12}) // back, in the same tick perhaps
	r.step(t, "begin")
	if o := r.order(t); o.Verb != state.VerbApply {
		t.Errorf("order %+v", o)
	}
}

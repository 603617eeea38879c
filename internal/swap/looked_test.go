package swap

import (
	"os"
	"path/filepath"
	"slices"
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

// TestUpdateReadsNoOldProgram: the attempt after an update does not read the program that it has
// installed, neither to begin nor to replace it, unless that was written since.
func TestUpdateReadsNoOldProgram(t *testing.T) {
	const size = 8 << 20
	release := func(word string) map[string]string {
		return map[string]string{"agent": strings.Repeat(word, size/len(word)), "agent.service": "unit 2"}
	}
	var none [2]int // what else is read, by the rig among it
	for _, c := range []struct {
		name    string
		touched int    // before this step; 2 is none
		reads   [2]int // how often begin and the swap read the old program
	}{
		{"as it was", 2, [2]int{0, 0}},
		{"touched before", 0, [2]int{1, 0}},
		{"touched after begin", 1, [2]int{0, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.sw.Boot = "this"
			r.put(t, "bin/agent", file{"agent 1", 0o755, 12}) // all may know its digest
			r.sys.on["arm machinemon-deadline@agent.timer"] = func() { age(t, r.at("bin/.machinemon-update/*.new")) }
			r.update(t, "a1", "v2", 2, release("new "))
			touch := func(step int) {
				if c.touched == step {
					age(t, r.at("bin/agent"))
				}
			}
			touch(0)
			before := readBytes(t)
			r.step(t, "begin")
			got := [2]int{readBytes(t) - before}
			o := r.order(t)
			if o.Verb != state.VerbApply || o.Installed != "v2" {
				t.Fatalf("order %+v", o)
			}
			must(t, look(r.tree, state.Baseline{Attempt: o.Attempt, Standing: true}))
			r.spool(t, o.Attempt, "v3", 3, release("next"), nil)
			touch(1)
			before = readBytes(t)
			r.step(t, "swap")
			got[1] = readBytes(t) - before
			if none[1] == 0 {
				none = got
			}
			for i, step := range []string{"begin", "swap"} {
				if reads := (got[i] - none[i] + size/2) / size; reads != c.reads[i] {
					t.Errorf("%s reads %d bytes beside %d: %d programs, want %d", step, got[i]-none[i], none[i], reads, c.reads[i])
				}
			}
		})
	}
}

// TestBeginReadsNoPackages: an unattended check of files that an update has installed does not
// read dpkg's lists, which have many megabytes. If one of the files is not recorded, it does.
func TestBeginReadsNoPackages(t *testing.T) {
	lists, err := filepath.Glob("/var/lib/dpkg/info/*.list")
	must(t, err)
	size := 0
	for _, l := range lists {
		info, err := os.Stat(l)
		must(t, err)
		size += int(info.Size())
	}
	if size < 1<<20 {
		t.Skip("there are few packages")
	}
	r := newRig(t)
	begin := func() int {
		before := readBytes(t)
		r.step(t, "begin")
		if o := r.order(t); o.Verb != state.VerbApply {
			t.Fatalf("order %+v", o)
		}
		return readBytes(t) - before
	}
	if read := begin(); read >= size {
		t.Errorf("read %d bytes; the lists have %d", read, size)
	}
	must(t, r.tree.Update(state.RoleSwap, "agent", func(s *state.Status) {
		s.Installed.Files = slices.DeleteFunc(s.Installed.Files, func(f state.File) bool { return f.To != r.at("bin/agent") })
	}))
	if read := begin(); read < size {
		t.Errorf("read %d bytes; the lists have %d, and not all files are recorded", read, size)
	}
}

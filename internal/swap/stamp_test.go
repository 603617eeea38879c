package swap

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// age lets the files that match have been written an hour ago.
func age(t *testing.T, pattern string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %q, %v", pattern, files, err)
	}
	for _, f := range files {
		then := time.Now().Add(-time.Hour)
		must(t, os.Chtimes(f, then, then))
	}
}

// writeUnseen writes to a file, and gives it the time that it had before.
func writeUnseen(t *testing.T, path string, at int64) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("x"), at)
	must(t, err)
	must(t, f.Close())
	must(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
}

// readBytes returns how many bytes this process has read.
func readBytes(t *testing.T) (n int) {
	t.Helper()
	io, err := os.ReadFile("/proc/self/io")
	must(t, err)
	if _, err := fmt.Sscanf(string(io), "rchar: %d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRollbackReadsNoProgram: the old program is put back without a look at its bytes or
// those of the new one, during which the service would be down. A program that was written
// since, or in another boot, is read.
func TestRollbackReadsNoProgram(t *testing.T) {
	const size = 2 << 20
	none := 0 // what the rig itself reads
	for _, c := range []struct {
		name   string
		breaks func(*testing.T, *rig)
		reads  int // of programs
		fails  []string
	}{
		{"as they were", func(*testing.T, *rig) {}, 0, nil},
		{"another boot", func(t *testing.T, r *rig) { r.sw.Boot = "next" }, 2, nil},
		{"the backup was written", func(t *testing.T, r *rig) {
			backup := r.at("bin/.machinemon-update/agent@a1.0.old")
			info, err := os.Stat(backup)
			must(t, err)
			f, err := os.OpenFile(backup, os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("x"), size/2)
			must(t, err)
			must(t, f.Close())
			must(t, os.Chtimes(backup, info.ModTime(), info.ModTime())) // as if it had not been
		}, 1, []string{"missing or damaged"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.sw.Boot = "this"
			r.put(t, "bin/agent", file{strings.Repeat("old ", size/4), 0o750, 12})
			age(t, r.at("bin/agent"))
			r.sys.on["arm machinemon-deadline@agent.timer"] = func() { age(t, r.at("bin/.machinemon-update/*.new")) }
			r.offer(t, "a1", "v2", 2, map[string]string{"agent": strings.Repeat("new ", size/4), "agent.service": "unit 2"})
			r.step(t, "swap")
			r.gate(t, "a1", state.FindingBad, "it is bad")
			c.breaks(t, r)
			before, got := readBytes(t), 0
			r.sys.on["restart agent.service"] = func() { got = readBytes(t) - before }
			if c.fails != nil {
				r.fails(t, "rollback", state.ResultRollbackFailed, c.fails...)
			} else {
				r.step(t, "rollback")
			}
			if c.reads == 0 {
				none = got
			}
			if reads := (got - none + size/2) / size; reads != c.reads || got == 0 {
				t.Errorf("read %d bytes before the restart: %d programs, want %d", got, reads, c.reads)
			}
		})
	}
}

// TestBackupWrittenBeforeTrial: a backup that was written between the back-up and the start of
// the trial is not taken for the old program.
func TestBackupWrittenBeforeTrial(t *testing.T) {
	r := newRig(t)
	r.sw.Boot = "this"
	age(t, r.at("bin/agent"))
	r.sys.on["arm machinemon-deadline@agent.timer"] = func() {
		backup := r.at("bin/.machinemon-update/agent@a1.0.old")
		writeUnseen(t, backup, 0)
		age(t, backup) // by another time than before
	}
	badTrial(t, r)
	r.fails(t, "rollback", state.ResultRollbackFailed, "cannot restore", "bin/agent", "missing or damaged")
}

// TestBackUpReadsNoProgram: the digest of the old program, taken before the pre-flight, is
// that of its backup, unless the program was written or replaced since.
func TestBackUpReadsNoProgram(t *testing.T) {
	const size = 2 << 20
	for _, c := range []struct {
		name   string
		breaks func(*testing.T, *rig)
		reads  int // of programs
		fails  []string
	}{
		{"as it was", func(*testing.T, *rig) {}, 0, nil},
		{"touched", func(t *testing.T, r *rig) { age(t, r.at("bin/agent")) }, 1, nil},
		{"written", func(t *testing.T, r *rig) {
			writeUnseen(t, r.at("bin/agent"), size/2)
		}, 1, []string{"cannot back up", "it was changed meanwhile"}},
		{"replaced", func(t *testing.T, r *rig) {
			must(t, os.WriteFile(r.at("bin/other"), []byte(strings.Repeat("odd ", size/4)), 0o755))
			must(t, os.Rename(r.at("bin/other"), r.at("bin/agent")))
		}, 1, []string{"cannot back up", "it was changed meanwhile"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.put(t, "bin/agent", file{strings.Repeat("old ", size/4), 0o755, 12})
			age(t, r.at("bin/agent"))
			r.offer(t, "a1", "v2", 2, map[string]string{"agent": strings.Repeat("new ", size/4), "agent.service": "unit 2"})
			r.configure(t, "version_command = ['"+r.at("bin/agent")+"', '--version']\n")
			r.sys.said = "agent v2"
			before, got := 0, 0
			r.sys.on["try agent"] = func() { c.breaks(t, r); before = readBytes(t) }
			r.sys.on["arm machinemon-deadline@agent.timer"] = func() { got = readBytes(t) - before }
			if c.fails != nil {
				r.fails(t, "swap", state.ResultFailed, c.fails...)
				return
			}
			r.step(t, "swap")
			if reads := (got + size/2) / size; got == 0 || before == 0 || reads != c.reads {
				t.Errorf("read %d bytes between pre-flight and trial, want %d programs", got, c.reads)
			}
		})
	}
}

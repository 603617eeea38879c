//go:build systemd

package systemtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
)

// TestMeasures checks what make bench measures processes with, by one whose figures are
// known: its CPU time, its memory, what it writes and how often it waits for the disk.
func TestMeasures(t *testing.T) {
	once(t)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ends, err := machine.WatchEnds()
	ok(err)
	defer func() { ok(ends.Close()) }()
	syncs, err := machine.WatchSyncs()
	ok(err)
	defer func() { ok(syncs.Close()) }()

	// The name is this test's alone: the records are those of the whole host.
	dir := filepath.Join(lab.Directory(), "measures")
	ok(os.Mkdir(dir, 0o755))
	program := filepath.Join(dir, "mm-measured-dd")
	dd, err := exec.LookPath("dd")
	ok(err)
	content, err := os.ReadFile(dd)
	ok(err)
	ok(os.WriteFile(program, content, 0o755))
	begun := time.Now()
	const memory, written = 32 << 20, 64 << 20
	out, err := exec.Command(program, "if=/dev/zero", "of="+filepath.Join(dir, "out"), "bs=32M", "count=2", "conv=fsync").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	took := time.Since(begun)

	all, err := ends.Take()
	ok(err)
	var found []machine.Ended
	for _, e := range all {
		if e.Program == "mm-measured-dd" {
			found = append(found, e)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d of %d processes are the one that ended", len(found), len(all))
	}
	if e := found[0]; e.Peak < memory || e.Peak > 2*memory || e.Written < written || e.Written > 2*written || e.CPU <= 0 || e.CPU > took || e.End-e.Begun > took+time.Second {
		t.Errorf("in %s: %+v", took, e)
	}
	calls, err := syncs.Take()
	ok(err)
	n := 0
	for _, c := range calls {
		if c.PID == found[0].PID {
			n++
			if c.Call != "fsync" {
				t.Errorf("%+v, of %+v", c, found[0])
			}
		}
	}
	if n != 1 {
		t.Errorf("counted %d syncs of %d", n, len(calls))
	}
}

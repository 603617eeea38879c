//go:build systemd

package systemtest

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
)

// A sample is one measurement of a row. Durations are in milliseconds.
type sample struct {
	Outage   float64 // in which the service did not answer
	Renewed  float64 // from the begin until the service was started for the last time
	Whole    float64 // from the begin until the command had ended
	CPU      float64 // of the whole machine, with PID 1, the journal and the service
	Requests int
	Bytes    int64                 // received, of answers' bodies
	Units    map[string]unitSample // by the steps
	Idle     *idleSample           `json:",omitempty"`
}

// measure measures a row once.
func (b *bench) measure(r *benchRow) sample {
	b.t.Helper()
	c := r.target
	r.prepare()
	b.must("sync") // preparing one row must not slow another
	var p *machine.Prober
	if r.probed {
		var err error
		p, err = b.Probe(c.address, "/healthz", time.Millisecond)
		b.ok(err)
	}
	b.takeProcesses() // of the preparation
	requests := len(c.server.Requests())
	cpu, begun := b.cpu(), monotonic()
	got := r.act()
	s := sample{Whole: monotonic() - begun, CPU: b.cpu() - cpu, Idle: r.idle}
	version := r.runs()
	if got.Code != r.exit {
		b.t.Fatalf("%s: exit status %d, want %d:\n%s%s", r.Name, got.Code, r.exit, got.Stdout, got.Stderr)
	}
	c.runs = version
	c.await()
	if p != nil {
		s.Outage = float64(p.Stop().Total) / float64(time.Millisecond)
		s.Renewed = max(0, b.stamp(c.name+".service", "ActiveEnterTimestampMonotonic")-begun)
	}
	for _, q := range c.server.Requests()[requests:] {
		s.Requests++
		s.Bytes += q.Bytes
	}
	s.Units = b.steps(c.name, begun, begun+s.Whole)
	if r.after != nil {
		r.after()
	}
	b.must("systemctl", "reset-failed") // starts count towards the start limit
	return s
}

// stamp returns a time of a unit, in milliseconds of CLOCK_MONOTONIC.
func (b *bench) stamp(unit, property string) float64 {
	b.t.Helper()
	n, err := strconv.ParseFloat(b.property(unit, property), 64)
	b.ok(err)
	return n / 1e3
}

// cpu returns the CPU time that all processes of the machine have used, in milliseconds.
func (b *box) cpu() float64 {
	b.t.Helper()
	stat := b.must("cat", "/sys/fs/cgroup/cpu.stat")
	for line := range strings.Lines(stat) {
		if usec, ok := strings.CutPrefix(line, "usage_usec "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(usec), 64)
			b.ok(err)
			return n / 1e3
		}
	}
	b.t.Fatalf("no usage_usec in %s", stat)
	return 0
}

// monotonic returns CLOCK_MONOTONIC, which host and machine share, in milliseconds.
func monotonic() float64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	return float64(now.Nano()) / 1e6
}

// await waits until the version that must run serves.
func (c *benchTarget) await() {
	c.t.Helper()
	c.ok(machine.WaitFor(c.t.Context(), c.name+" "+c.runs+" serves", func() bool {
		status, got, err := c.getFrom(c.address, "/version")
		return err == nil && status == http.StatusOK && got == c.runs
	}))
}

// static is a web server of the files in a directory.
type static struct{ dir string }

func newStatic(dir string) static { return static{dir} }

func (s static) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := filepath.Join(s.dir, filepath.Base(r.URL.Path))
	f, err := os.Open(path)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size()))
	http.ServeContent(w, r, path, info.ModTime(), f)
}

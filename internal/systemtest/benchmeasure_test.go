//go:build systemd

package systemtest

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	Bytes    int64
	Units    map[string]unitSample // by the steps
}

// A unitSample is what systemd has measured of a step's unit. Times count from the begin of
// the command. The CPU time has what systemd needs to make the sandbox.
type unitSample struct{ Begun, Ended, CPU float64 }

// round measures a row once.
func (b *bench) round(r *benchRow) {
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
	requests := len(c.server.Requests())
	cpu, begun := b.cpu(), monotonic()
	got := r.act()
	s := sample{Whole: monotonic() - begun, CPU: b.cpu() - cpu}
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
	s.Units = b.steps(c.name, begun)
	r.Samples = append(r.Samples, s)
	b.must("systemctl", "reset-failed") // starts count towards the start limit
}

// benchSteps are the units of a chain until the verdict is carried out, in the order of the
// table.
var benchSteps = []string{"fetch", "verify", "baseline", "swap", "health-gate", "command", "commit", "rollback"}

// steps returns what systemd has measured of the units of a target that have run since.
func (b *bench) steps(target string, since float64) map[string]unitSample {
	b.t.Helper()
	argv := []string{"systemctl", "show", "--property=Id,InactiveExitTimestampMonotonic,ExecMainExitTimestampMonotonic,CPUUsageNSec"}
	for _, step := range benchSteps {
		argv = append(argv, "machinemon-"+step+"@"+target+".service")
	}
	all := map[string]unitSample{}
	for unit := range strings.SplitSeq(b.must(argv...), "\n\n") {
		got := map[string]string{}
		for line := range strings.Lines(unit) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			got[name] = value
		}
		number := func(name string) float64 {
			n, err := strconv.ParseFloat(got[name], 64)
			if err != nil { // "[not set]"
				return 0
			}
			return n
		}
		u := unitSample{Begun: number("InactiveExitTimestampMonotonic")/1e3 - since,
			Ended: number("ExecMainExitTimestampMonotonic")/1e3 - since, CPU: number("CPUUsageNSec") / 1e6}
		if u.Begun > 0 {
			step, _, _ := strings.Cut(strings.TrimPrefix(got["Id"], "machinemon-"), "@")
			all[step] = u
		}
	}
	return all
}

// stamp returns a time of a unit, in milliseconds of CLOCK_MONOTONIC.
func (b *bench) stamp(unit, property string) float64 {
	b.t.Helper()
	n, err := strconv.ParseFloat(b.property(unit, property), 64)
	b.ok(err)
	return n / 1e3
}

// cpu returns the CPU time that all processes of the machine have used, in milliseconds.
func (b *bench) cpu() float64 {
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

// tableOf returns a line for each row: medians, and from the least to the greatest.
func tableOf(rows []*benchRow) string {
	var t strings.Builder
	fmt.Fprintf(&t, "%-42s %26s %6s %26s %6s %9s %8s %12s\n", "", "outage, ms", "×", "whole, ms", "×", "CPU, ms", "requests", "bytes")
	for _, r := range rows {
		times := func(base *benchRow, of func(sample) float64) string {
			if base == nil || base == r || r.middle(of) == 0 {
				return ""
			}
			return fmt.Sprintf("%.2f", r.middle(of)/base.middle(of))
		}
		outage, whole := func(s sample) float64 { return s.Outage }, func(s sample) float64 { return s.Whole }
		fmt.Fprintf(&t, "%-42s %26s %6s %26s %6s %9.0f %8.0f %12.0f\n", r.Name, r.spread(outage), times(r.base, outage), r.spread(whole), times(r.whole, whole),
			r.middle(func(s sample) float64 { return s.CPU }), r.middle(func(s sample) float64 { return float64(s.Requests) }), r.middle(func(s sample) float64 { return float64(s.Bytes) }))
		t.WriteString(r.units())
	}
	return t.String()
}

// units returns a line for each step of the row, with medians.
func (r *benchRow) units() (lines string) {
	for _, step := range benchSteps {
		if _, ok := r.Samples[0].Units[step]; !ok {
			continue
		}
		of := func(get func(unitSample) float64) float64 {
			return r.middle(func(s sample) float64 { return get(s.Units[step]) })
		}
		lines += fmt.Sprintf("    %-12s %6.0f to %6.0f ms, CPU %4.0f ms\n", step, of(func(u unitSample) float64 { return u.Begun }),
			of(func(u unitSample) float64 { return u.Ended }), of(func(u unitSample) float64 { return u.CPU }))
	}
	return lines
}

func (r *benchRow) sorted(of func(sample) float64) (all []float64) {
	for _, s := range r.Samples {
		all = append(all, of(s))
	}
	slices.Sort(all)
	return all
}

func (r *benchRow) middle(of func(sample) float64) float64 { return r.sorted(of)[len(r.Samples)/2] }

func (r *benchRow) spread(of func(sample) float64) string {
	all := r.sorted(of)
	if all[len(all)-1] == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f (%.1f to %.1f)", r.middle(of), all[0], all[len(all)-1])
}

// padding returns the same bytes each time, of which four tenths cannot be compressed.
var padding = sync.OnceValue(func() []byte {
	random := rand.NewChaCha8([32]byte{})
	all := make([]byte, 110<<20)
	for at := 0; at < len(all); at += 4096 {
		random.Read(all[at : at+1638])
	}
	return all
})

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

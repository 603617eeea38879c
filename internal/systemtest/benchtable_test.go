//go:build systemd

package systemtest

import (
	"fmt"
	"slices"
	"strings"
)

// benchNotes explain the table's columns.
const benchNotes = `× is to the plain restart and to the script of the same program. "peak RSS" is that of the largest process, with its
program's pages and without the page cache (VmHWM); "written" is what our processes made the kernel write to disks, and
"syncs" is how often they waited for that (fsync, fdatasync, syncfs), in a round of its own. CPU is the whole machine's in
the lines of rows, and the process's in the lines of steps, with what systemd needs to make its sandbox.
`

// tableOf returns a line for each row: medians, and from the least to the greatest.
func tableOf(rows []*benchRow) string {
	var t strings.Builder
	fmt.Fprintf(&t, "%-34s %26s %6s %29s %6s %8s %4s %11s %10s %6s %9s\n", "", "outage, ms", "×", "whole, ms", "×", "CPU, ms", "req.", "received, B", "written, B", "syncs", "peak RSS")
	for _, r := range rows {
		if len(r.Samples) == 0 {
			continue
		}
		times := func(base *benchRow, of func(sample) float64) string {
			if base == nil || base == r || len(base.Samples) == 0 || r.middle(of) == 0 {
				return ""
			}
			return fmt.Sprintf("%.2f", r.middle(of)/base.middle(of))
		}
		outage, whole := func(s sample) float64 { return s.Outage }, func(s sample) float64 { return s.Whole }
		written, syncs, peak := "", "", ""
		if len(r.Samples[0].Units) > 0 {
			written, peak = fmt.Sprintf("%.0f", r.middle(sample.written)), mebibytes(r.middle(sample.peak))
		}
		if r.Syncs != nil && len(r.Samples[0].Units) > 0 {
			n := 0
			for _, of := range r.Syncs {
				n += of
			}
			syncs = fmt.Sprint(n)
		}
		fmt.Fprintf(&t, "%-34s %26s %6s %29s %6s %8.0f %4.0f %11.0f %10s %6s %9s\n", r.Name, r.spread(outage), times(r.base, outage), r.spread(whole), times(r.whole, whole),
			r.middle(func(s sample) float64 { return s.CPU }), r.middle(func(s sample) float64 { return float64(s.Requests) }),
			r.middle(func(s sample) float64 { return float64(s.Bytes) }), written, syncs, peak)
		t.WriteString(r.steps())
	}
	return t.String() + benchNotes
}

func (s sample) written() (sum float64) {
	for _, u := range s.Units {
		sum += float64(u.Written)
	}
	return sum
}

func (s sample) peak() (most float64) {
	for _, u := range s.Units {
		most = max(most, float64(u.Peak))
	}
	return most
}

func mebibytes(n float64) string { return fmt.Sprintf("%.1f MiB", n/(1<<20)) }

// steps returns a line for each step of the row, with medians, and what an idle machine did.
func (r *benchRow) steps() (lines string) {
	for _, step := range benchSteps {
		if _, ok := r.Samples[0].Units[step.name]; !ok {
			continue
		}
		of := func(get func(unitSample) float64) float64 {
			return r.middle(func(s sample) float64 { return get(s.Units[step.name]) })
		}
		lines += fmt.Sprintf("    %-12s %6.0f to %6.0f ms, CPU %5.0f ms, peak RSS %s, written %.0f B", step.name, of(func(u unitSample) float64 { return u.Begun }),
			of(func(u unitSample) float64 { return u.Ended }), of(func(u unitSample) float64 { return u.CPU }),
			mebibytes(of(func(u unitSample) float64 { return float64(u.Peak) })), of(func(u unitSample) float64 { return float64(u.Written) }))
		if r.Syncs != nil {
			lines += fmt.Sprintf(", %d syncs", r.Syncs[step.name])
		}
		lines += "\n"
	}
	if i := r.Samples[0].Idle; i != nil {
		lines += fmt.Sprintf("    our processes: %d; our units that began: %d %v; PID 1: CPU %.0f ms, woken %d times\n", i.Processes, len(i.Begun), i.Begun, i.CPU, i.Woken)
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

//go:build systemd

package systemtest

import (
	"math"
	"strconv"
	"strings"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
)

// A unitSample is what a step costs. Times are in milliseconds, and count from the begin of
// the command. The CPU time has what systemd needs to make the sandbox.
type unitSample struct {
	Begun, Ended, CPU float64
	Peak              int64 // bytes, as in machine.Ended; 0 if the process still runs
	Written           int64 // bytes
	Syncs             int   `json:"-"` // in the round that counts them
}

// A benchStep is a process of an attempt, and how the kernel names its program.
type benchStep struct{ name, program string }

// benchSteps are those until the verdict is carried out, in the order of the table. The
// first two are no units: the command, and root's part of the fetch unit. Those of the gate
// execute their own file again, by /proc/self/exe.
var benchSteps = []benchStep{{"apply", "machinemon-upda"}, {"begin", "swapper"}, {"fetch", "fetcher"}, {"verify", "verifier"}, {"baseline", "exe"},
	{"swap", "swapper"}, {"health-gate", "exe"}, {"command", "health-gate"}, {"commit", "swapper"}, {"rollback", "swapper"}}

// steps returns what the steps of a target cost that ran in this time, in milliseconds of
// CLOCK_MONOTONIC.
func (b *bench) steps(target string, since, until float64) map[string]unitSample {
	b.t.Helper()
	argv := []string{"systemctl", "show", "--property=Id,InactiveExitTimestampMonotonic,ExecMainStartTimestampMonotonic,ExecMainExitTimestampMonotonic,CPUUsageNSec"}
	for _, step := range benchSteps[2:] {
		argv = append(argv, "machinemon-"+step.name+"@"+target+".service")
	}
	all := map[string]unitSample{"apply": {Begun: since, Ended: until}}
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
		began, main, ended := number("InactiveExitTimestampMonotonic")/1e3, number("ExecMainStartTimestampMonotonic")/1e3, number("ExecMainExitTimestampMonotonic")/1e3
		if began < since {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(got["Id"], "machinemon-"), "@")
		if name == "fetch" {
			all["begin"] = unitSample{Begun: began, Ended: main}
		}
		if main < since { // begin refused it
			continue
		}
		all[name] = unitSample{Begun: main, Ended: ended, CPU: number("CPUUsageNSec") / 1e6}
	}
	ended, syncs := b.takeProcesses()
	for _, step := range benchSteps {
		u, there := all[step.name]
		if !there {
			continue
		}
		if p := nearest(ended, step.program, u.Begun, u.Ended); p != nil {
			u.CPU, u.Peak, u.Written = p.CPU.Seconds()*1e3, p.Peak, p.Written
			for _, s := range syncs {
				if s.PID == p.PID {
					u.Syncs++
				}
			}
		} else if step.name == "apply" { // the row runs no command of ours
			delete(all, step.name)
			continue
		}
		u.Begun -= since
		u.Ended -= since
		all[step.name] = u
	}
	return all
}

// nearest returns the process of a program that began and ended nearest to these times, or
// nil if there was none at about that time. Other machines of this host have such processes,
// too.
func nearest(all []machine.Ended, program string, begun, ended float64) (p *machine.Ended) {
	least := 250.0
	for i, e := range all {
		away := math.Abs(e.Begun.Seconds()*1e3-begun) + math.Abs(e.End.Seconds()*1e3-ended)
		if e.Program == program && away < least {
			p, least = &all[i], away
		}
	}
	return p
}

// takeProcesses returns the processes that have ended since the last call, and their syncs
// if these are counted.
func (b *bench) takeProcesses() (ended []machine.Ended, syncs []machine.Sync) {
	b.t.Helper()
	ended, err := b.ends.Take()
	b.ok(err)
	if b.syncs != nil {
		syncs, err = b.syncs.Take()
		b.ok(err)
	}
	return ended, syncs
}

// countSyncs measures each row once, apart from those that are measured only once, and keeps
// nothing but the number of syncs.
func (b *bench) countSyncs(rows []*benchRow) {
	b.t.Helper()
	var err error
	b.syncs, err = machine.WatchSyncs()
	b.ok(err)
	for _, r := range rows {
		if r.once {
			continue
		}
		r.Syncs = map[string]int{}
		for step, u := range b.measure(r).Units {
			r.Syncs[step] = u.Syncs
		}
	}
	b.ok(b.syncs.Close())
	b.syncs = nil
}

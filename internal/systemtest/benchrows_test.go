//go:build systemd

package systemtest

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
)

// byHand is the update that an operator's script makes: it downloads and unpacks the
// archive, moves the program into its place, restarts the service and waits until it
// answers. It verifies nothing and keeps nothing.
const byHand = `#!/bin/sh
# usage: by-hand NAME ADDRESS ARCHIVE-URL VERSION
set -eu
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
wget -qO- "$3" | tar -xz -C "$temp"
cp "/usr/local/bin/$1" "$temp/previous"
chmod 755 "$temp/testd"
mv "$temp/testd" "/usr/local/bin/.$1.new"
mv "/usr/local/bin/.$1.new" "/usr/local/bin/$1"
systemctl restart "$1.service"
i=0
until [ "$(wget -qO- "http://$2/version" 2>/dev/null)" = "$4" ]; do
	i=$((i + 1))
	[ $i -lt 500 ]
	sleep 0.01
done
`

// fetchOnly downloads, verifies and unpacks an archive, and changes nothing.
const fetchOnly = `#!/bin/sh
# usage: fetch-only ARCHIVE-URL SHA256
set -eu
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
wget -qO "$temp/a" "$1"
echo "$2  $temp/a" | sha256sum --quiet -c
tar -xz -C "$temp" -f "$temp/a"
`

// A benchRow is a row of the table, and what was measured for it.
type benchRow struct {
	Name    string
	Samples []sample
	Syncs   map[string]int `json:",omitempty"` // by the steps
	target  *benchTarget
	base    *benchRow // what the row's outage is compared with
	whole   *benchRow // what its duration is compared with
	probed  bool      // the outage is measured
	once    bool      // it takes long, so it is measured in the first round only
	asked   bool      // it is measured only if -bench-rows selects it
	prepare func()
	act     func() machine.Result
	exit    int
	runs    func() string // the version that must serve in the end
	after   func()        // makes the machine ready for the next row; nil: nothing
	idle    *idleSample   // what act found, if it is idle
}

// rows returns what can be measured, in the order of the table.
func (b *bench) rows() (all []*benchRow) {
	small := b.newTarget("small", 0, 13<<20, nil)
	large := b.newTarget("large", 1, 110<<20, nil)
	signed := b.newTarget("signed", 2, 13<<20, newPublisher(b.t))
	huge := b.newTarget("huge", 3, 1<<30, nil)
	for _, c := range []*benchTarget{small, large, signed, huge} {
		size := fmt.Sprintf("%s, %d MB: ", c.name, c.size>>20)
		version, url, sum := "", "", ""
		installed := func() string { return c.runs }
		publish := func(behaviour string, deltas bool) func() {
			return func() {
				version = c.publish(behaviour, deltas)
				url, sum = c.archive(version)
			}
		}
		apply := func() machine.Result { return b.run("machinemon-update", "apply", c.name) }
		becomes := func() string { c.runs = version; return version }
		restart := &benchRow{Name: size + "plain restart", target: c, probed: true, prepare: func() {},
			act: func() machine.Result { return b.run("systemctl", "restart", c.name+".service") }, runs: installed}
		restart.base = restart
		script := &benchRow{Name: size + "script", target: c, base: restart, probed: true, prepare: publish("", false),
			act: func() machine.Result { return b.run("by-hand", c.name, c.address, url, version) }, runs: becomes}
		script.whole = script
		// The next attempt reads the program that was replaced by hand. That is no part of an
		// update from one of our releases to the next.
		script.after = func() { b.must("machinemon-update", "apply", c.name) }
		only := &benchRow{Name: size + "wget, sha256sum, tar", target: c, whole: script, prepare: publish("", false),
			act: func() machine.Result { return b.run("fetch-only", url, sum) }, runs: installed}
		full := &benchRow{Name: size + "update", target: c, base: restart, whole: script, probed: true, prepare: publish("", false), act: apply, runs: becomes}
		nothing := &benchRow{Name: size + "nothing new", target: c, whole: script, prepare: func() {}, act: apply, runs: installed}
		timer := &benchRow{Name: size + "nothing new, scheduled", target: c, whole: script, prepare: func() {},
			act: func() machine.Result { return b.run("systemctl", "start", "machinemon-fetch@"+c.name+".service") }, runs: installed}
		delta := &benchRow{Name: size + "update by delta", target: c, base: restart, whole: script, probed: true, prepare: publish("", true), act: apply, runs: becomes}
		exits := &benchRow{Name: size + "exits at once", target: c, base: restart, whole: script, probed: true, prepare: publish("exit1-at-once", false), act: apply, exit: 4, runs: installed}
		silent := &benchRow{Name: size + "never answers", target: c, base: restart, whole: script, probed: true, prepare: publish("never-listen", false), act: apply, exit: 4, runs: installed}
		switch c {
		case small:
			all = append(all, restart, script, only, full, nothing, timer, delta, exits, b.dies(c), silent, b.idles(c))
		case large:
			all = append(all, restart, script, only, full, delta, exits)
		case signed:
			all = append(all, restart, script, full, nothing, timer)
		case huge: // it takes half a minute, and 5 GiB of the disk
			full.Name, full.base, full.whole, full.once, full.asked = "huge, 1 GiB: update", nil, nil, true, true
			full.act = func() machine.Result { return b.runLong("machinemon-update", "apply", c.name) }
			all = append(all, full)
		}
	}
	return all
}

// dies returns the row of a release that serves for two seconds of its settle time.
func (b *bench) dies(c *benchTarget) *benchRow {
	const longer = "/etc/machinemon-update/targets.d/small.toml.d/settle.toml"
	return &benchRow{Name: fmt.Sprintf("%s, %d MB: dies after 2 s", c.name, c.size>>20), target: c, probed: true, exit: 4,
		prepare: func() {
			c.publish("exit-after-2s", false)
			b.writeFile(longer, "[health]\nsettle_seconds = 5\n", 0o644)
		},
		act:   func() machine.Result { return b.run("machinemon-update", "apply", c.name) },
		runs:  func() string { return c.runs },
		after: func() { b.must("rm", longer) }}
}

// idleSample is what a machine with targets does while nothing is to do.
type idleSample struct {
	Processes int      // of our programs
	Begun     []string // our units that began meanwhile
	CPU       float64  // of PID 1, in milliseconds; its clock has ticks of 10 ms
	Woken     int64    // how often PID 1 was
}

// idles returns the row of half a minute in which nothing happens.
func (b *bench) idles(c *benchTarget) *benchRow {
	r := &benchRow{Name: "idle, 30 s", target: c, once: true, runs: func() string { return c.runs }, prepare: func() {}}
	r.act = func() machine.Result {
		cpu, woken := b.first()
		begun := monotonic()
		time.Sleep(30 * time.Second) // that is what is measured
		now, wokenNow := b.first()
		r.idle = &idleSample{Processes: len(strings.Fields(b.must("sh", "-c", `for exe in /proc/[0-9]*/exe; do readlink $exe; done | grep -E '^/usr/(bin/machinemon|lib/machinemon-update/)' || true`))), CPU: now - cpu, Woken: wokenNow - woken}
		for unit := range strings.SplitSeq(b.must("systemctl", "show", "--property=Id,InactiveExitTimestampMonotonic", "machinemon-*"), "\n\n") {
			id, at, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(unit), "Id="), "\nInactiveExitTimestampMonotonic=")
			if n, err := strconv.ParseFloat(at, 64); err == nil && n/1e3 > begun {
				r.idle.Begun = append(r.idle.Begun, id)
			}
		}
		return machine.Result{}
	}
	return r
}

// first returns the CPU time of the machine's PID 1, in milliseconds, and how often it was
// woken (proc_pid_stat(5), proc_pid_status(5)).
func (b *bench) first() (cpu float64, woken int64) {
	b.t.Helper()
	_, stat, _ := strings.Cut(b.must("cat", "/proc/1/stat"), ") ")
	for _, ticks := range strings.Fields(stat)[11:13] {
		n, err := strconv.ParseFloat(ticks, 64)
		b.ok(err)
		cpu += 10 * n
	}
	_, line, _ := strings.Cut(b.must("cat", "/proc/1/status"), "\nvoluntary_ctxt_switches:")
	line, _, _ = strings.Cut(line, "\n")
	woken, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	b.ok(err)
	return cpu, woken
}

// runLong is run for a command that takes minutes.
func (b *bench) runLong(argv ...string) machine.Result {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Minute)
	defer cancel()
	r, err := b.Machine.Run(ctx, argv...)
	b.ok(err)
	return r
}

// archive returns the address and the digest of a version's archive.
func (c *benchTarget) archive(version string) (url, sum string) {
	c.t.Helper()
	entries, err := os.ReadDir(c.dir)
	c.ok(err)
	for _, e := range entries {
		if strings.Contains(e.Name(), version) && strings.HasSuffix(e.Name(), ".tar.gz") {
			content, err := os.ReadFile(c.dir + "/" + e.Name())
			c.ok(err)
			return "http://" + c.from + "/" + e.Name(), digest(string(content))
		}
	}
	c.t.Fatalf("there is no archive of %s in %s: %v", version, c.dir, entries)
	return "", ""
}

// selected returns the rows that -bench-rows selects, and those that they are compared with.
// It installs their targets.
func selected(t *testing.T, all []*benchRow) (rows []*benchRow) {
	t.Helper()
	pattern, err := regexp.Compile(*benchOnly)
	if err != nil {
		t.Fatal(err)
	}
	wanted := map[*benchRow]bool{}
	for _, r := range all {
		if pattern.MatchString(r.Name) && (!r.asked || *benchOnly != "") {
			wanted[r], wanted[r.base], wanted[r.whole] = true, true, true
		}
	}
	for _, r := range all {
		if wanted[r] {
			if r.target.server == nil {
				r.target.install()
			}
			rows = append(rows, r)
		}
	}
	return rows
}

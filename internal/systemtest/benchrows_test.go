//go:build systemd

package systemtest

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

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
	target  *benchTarget
	base    *benchRow // what the row's outage is compared with
	whole   *benchRow // what its duration is compared with
	probed  bool      // the outage is measured
	prepare func()
	act     func() machine.Result
	exit    int
	runs    func() string // the version that must serve in the end
}

// rows returns what is measured, in the order of the table.
func (b *bench) rows() (all []*benchRow) {
	for _, c := range []*benchTarget{b.small, b.large, b.signed} {
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
		case b.small:
			all = append(all, restart, script, only, full, nothing, timer, delta, exits, silent)
		case b.large:
			all = append(all, restart, script, only, full, exits)
		default:
			all = append(all, restart, script, full, nothing, timer)
		}
	}
	return all
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
func selected(t *testing.T, all []*benchRow) (rows []*benchRow) {
	t.Helper()
	pattern, err := regexp.Compile(*benchOnly)
	if err != nil {
		t.Fatal(err)
	}
	wanted := map[*benchRow]bool{}
	for _, r := range all {
		if pattern.MatchString(r.Name) {
			wanted[r], wanted[r.base], wanted[r.whole] = true, true, true
		}
	}
	for _, r := range all {
		if wanted[r] {
			rows = append(rows, r)
		}
	}
	return rows
}

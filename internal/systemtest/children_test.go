//go:build systemd

package systemtest

import (
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

const testdUnitPath = "/etc/systemd/system/testd.service"

// withUnit is testdTarget, for releases that bring the unit file, too.
var withUnit = strings.Replace(testdTarget, "[health]", "[[install]]\nfrom = \"testd.service\"\nto = \""+testdUnitPath+"\"\n[health]", 1)

// publishWithUnit adds a release that brings its unit file.
func (c *chain) publishWithUnit(d releases.Daemon, unit string) {
	c.t.Helper()
	c.publishFiles(c.dir, d.Version, releases.File{Name: "testd", Content: build(c.t, d)},
		releases.File{Name: "testd.service", Content: []byte(unit)})
}

const (
	parentUnit = `[Unit]
Description=Test daemon with a child
[Service]
Environment=TESTD_CHILD=/bin/sleep
ExecStart=/usr/local/bin/testd
Restart=on-failure
[Install]
WantedBy=multi-user.target
`
	testdData = "/etc/testd/data"
)

// sparingUnit does not end the children of the daemon when it stops.
var sparingUnit = strings.Replace(parentUnit, "[Service]\n", "[Service]\nKillMode=process\n", 1)

// TestChildrenSurvive shows that children of the daemon survive its stop if the unit file
// of the old or of the new version says so: in an update, in its rollback, and when the
// operator goes back; also if the stop comes before data are restored.
func TestChildrenSurvive(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		old, new string
		snapshot bool
	}{
		{"the old unit spares them", sparingUnit, parentUnit, false},
		{"the old unit spares them, with data", sparingUnit, parentUnit, true},
		{"the new unit spares them", parentUnit, sparingUnit, false},
		{"the new unit spares them, with data", parentUnit, sparingUnit, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			target := withUnit
			if test.snapshot {
				target += "[rollback]\nsnapshot = [\"" + testdData + "\"]\n"
			}
			c := newChain(t, test.old, target)
			c.must("install", "-d", "-m", "755", "/etc/testd")
			c.writeFile(testdData, "data\n", 0o600)
			children := func() []string {
				c.t.Helper()
				return strings.Fields(c.must("pgrep", "-f", "^/bin/sleep infinity"))
			}
			first := children()
			if len(first) != 1 {
				t.Fatalf("children: %q", first)
			}
			survived := func() {
				c.t.Helper()
				if now := children(); !slices.Contains(now, first[0]) {
					c.t.Fatalf("the child was %s, and there are %q", first[0], now)
				}
			}
			ends := func(exit int, says string, argv ...string) {
				c.t.Helper()
				r := c.run(argv...)
				t.Logf("it said: %s", r.Stdout)
				if r.Code != exit || !strings.HasPrefix(r.Stdout, "testd: "+says) {
					c.t.Errorf("%+v, want exit status %d and %q", r, exit, says)
				}
			}
			// The operator is warned before a later stop would end the children.
			warned := func(since machine.Cursor, version string) {
				c.t.Helper()
				warning := "with the unit file of " + version + ", a stop of testd.service ends all its processes (KillMode=control-group); until now it left its children alone (KillMode=process)"
				shown := c.must("machinemon-update", "status", "testd") + c.must("machinemon-update", "history", "testd")
				if test.old != sparingUnit {
					if strings.Contains(shown, "warning: ") {
						c.t.Errorf("without a reason it warns:\n%s", shown)
					}
					return
				}
				c.await(since, func(e machine.Entry) bool { return strings.Contains(e["MESSAGE"], "warning: "+warning) })
				if n := strings.Count(shown, "  warning: "+warning+"\n"); n != 2 {
					c.t.Errorf("status and history have the warning %d times:\n%s", n, shown)
				}
			}

			c.step("a rollback", func() {
				// It runs until it is stopped: a crash would end its children by its own unit file.
				c.publishWithUnit(releases.Daemon{Version: "1.1.0", Behaviour: "answer-500"}, test.new)
				r := c.run("machinemon-update", "check", "testd")
				const other = "\n  warning: 1.1.0 brings another testd.service; the running one leaves its children alone (KillMode=process)"
				if r.Code != 3 || strings.Contains(r.Stdout, other) != (test.old == sparingUnit) {
					c.t.Errorf("check: %+v", r)
				}
				since := c.cursor()
				ends(4, "rolled back 1.1.0", "machinemon-update", "apply", "testd")
				survived()
				warned(since, "1.1.0")
				c.assertRuns(releases.Daemon{Version: "1.0.0"})
				if got := c.readFile(testdUnitPath); got != test.old {
					c.t.Errorf("the unit file is %s", got)
				}
			})
			c.step("an update", func() {
				c.publishWithUnit(releases.Daemon{Version: "1.2.0"}, test.new)
				ends(0, "committed 1.2.0", "machinemon-update", "apply", "testd")
				survived()
				c.assertRuns(releases.Daemon{Version: "1.2.0"})
				if got := c.property("testd.service", "NeedDaemonReload"); got != "no" {
					c.t.Errorf("NeedDaemonReload=%s", got)
				}
			})
			c.step("the operator goes back", func() {
				ends(0, "committed 1.0.0", "machinemon-update", "rollback", "testd")
				survived()
				c.assertRuns(releases.Daemon{Version: "1.0.0"})
			})
		})
	}
}

//go:build systemd

package systemtest

import (
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
)

// A hold stops the chain at a known point, from outside, for as long as a file exists
// inside the machine. So a test's action meets that point every time, on fast and on slow
// machines.
type hold string

const (
	// The bundle is handed on, and the verifier has not begun.
	atVerify hold = "verify"
	// The swap has staged all files and waits for its pre-flight; there is no journal.
	atPreflight hold = "preflight"
	// The journal says prepared and the swap waits for its deadline timer; no file is renamed.
	atArming hold = "arming"
	// The journal says trial and the swap, or the rollback, waits for testd's restart.
	atRestart hold = "restart"
	// The verdict is durable, and commit or rollback waits for the stop of the timer
	// before it records the end and closes the journal. See [box.hold].
	atClosing hold = "closing"
	// The unit that saves or restores the data of a user has not begun.
	atData hold = "data"
	// That unit has saved or restored the data, and has not ended.
	atDataDone hold = "data-done"
	// The swap, or the rollback, waits for testd's restart, and testd already serves.
	atStarted hold = "started"
)

func (h hold) file() string { return "/run/hold-" + string(h) }

// waits returns a command that lasts as long as the hold.
func (h hold) waits() string {
	return "/bin/sh -c 'while [ -e " + h.file() + " ]; do sleep 0.02; done'"
}

// heldUnit is testdUnit with a start that can be held.
var heldUnit = strings.Replace(testdUnit, "[Service]\n", "[Service]\nExecStartPre="+atRestart.waits()+"\n", 1)

// holdable installs what can hold the chain, before the next daemon-reload; it holds nothing
// yet. Only the ordering of units makes the trial's timer wait: its start for a unit that
// starts before it, its stop for one that stops before it.
func (b *box) holdable() {
	b.t.Helper()
	for name, content := range map[string]string{
		"machinemon-verify@testd.service.d/hold.conf": "[Service]\nExecStartPre=" + atVerify.waits() + "\n",
		"machinemon-preflight@testd.service.d/hold.conf": "[Service]\nBindReadOnlyPaths=/run:/mnt\nExecStartPre=" + // its sandbox hides /run
			strings.Replace(atPreflight.waits(), "/run/", "/mnt/", 1) + "\n",
		"machinemon-data@testd.service.d/hold.conf": "[Service]\nExecStartPre=" + atData.waits() +
			"\nExecStartPost=" + atDataDone.waits() + "\n",
		"hold-arming.service": "[Unit]\nBefore=machinemon-deadline@testd.timer\n" +
			"[Service]\nType=oneshot\nExecStart=" + atArming.waits() + "\n",
		"hold-closing.service": "[Unit]\nAfter=machinemon-deadline@testd.timer\n" +
			"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop=" + atClosing.waits() + "\nTimeoutStopSec=infinity\n",
	} {
		b.writeFile("/etc/systemd/system/"+name, content, 0o644)
	}
}

func (b *box) hold(h hold) {
	b.t.Helper()
	b.writeFile(h.file(), "", 0o644)
	switch h {
	case atArming:
		b.must("systemctl", "start", "--no-block", "hold-arming.service")
	case atClosing:
		b.must("systemctl", "start", "hold-closing.service")
		b.must("systemctl", "stop", "--no-block", "hold-closing.service")
	}
}

func (b *box) letGo(h hold) {
	b.t.Helper()
	b.must("rm", h.file())
}

// awaitHeld waits until h holds the chain.
func (b *box) awaitHeld(since machine.Cursor, h hold) {
	b.t.Helper()
	switch h {
	case atVerify:
		b.awaitEvent(since, inChain("verify starting")[0])
	case atPreflight:
		b.awaitEvent(since, inChain("preflight starting")[0])
	case atArming:
		b.awaitJournal(`"phase": "prepared"`)
	case atRestart:
		b.awaitEvent(since, "testd.service starting")
	case atStarted:
		b.awaitProperty("testd.service", "SubState", func(state string) bool { return state == "start-post" })
	case atData:
		b.awaitProperty(unitOf("data"), "SubState", func(state string) bool { return state == "start-pre" })
	case atDataDone:
		b.awaitProperty(unitOf("data"), "SubState", func(state string) bool { return state == "start-post" })
	case atClosing:
		b.awaitJournal(`"verdict": "`)
		// The verdict is written before the timer is stopped.
		b.awaitProperty("machinemon-deadline@testd.timer", "Job", func(job string) bool { return job != "" && job != "0" })
	}
}

// awaitJournal waits until the open trial's journal contains the text.
func (b *box) awaitJournal(text string) {
	b.t.Helper()
	b.ok(machine.WaitFor(b.t.Context(), "the journal has "+text, func() bool {
		content, err := b.ReadFile(testdJournal)
		return err == nil && strings.Contains(string(content), text)
	}))
}

func (b *box) property(unit, name string) string {
	b.t.Helper()
	return strings.TrimSpace(b.must("systemctl", "show", "--property="+name, "--value", unit))
}

// awaitProperty waits for a change of a property that no journal entry announces.
func (b *box) awaitProperty(unit, name string, is func(value string) bool) {
	b.t.Helper()
	b.ok(machine.WaitFor(b.t.Context(), name+" of "+unit+" is as expected", func() bool { return is(b.property(unit, name)) }))
}

// longTrial is a target whose healthy trial lasts until the test ends it.
var longTrial = strings.Replace(testdTarget, "settle_seconds = 1", "settle_seconds = 50", 1)

// shortTrial is a target whose trial leaves a test three seconds to hold its end.
var shortTrial = strings.NewReplacer("timeout_seconds = 10", "timeout_seconds = 3", "settle_seconds = 1", "settle_seconds = 3").Replace(testdTarget)

// awaitTrial waits until the gate has found the new version healthy and waits for it to settle.
func (b *box) awaitTrial() {
	b.t.Helper()
	b.ok(machine.WaitFor(b.t.Context(), "the trial settles", func() bool {
		// systemd keeps the text after the process has ended.
		shown := b.must("systemctl", "show", "--property=ActiveState,StatusText", unitOf("health-gate"))
		return strings.Contains(shown, "ActiveState=activating") && strings.Contains(shown, "StatusText=settling")
	}))
}

// archive returns the path on the server of the archive of this version.
func (c *chain) archive(version string) string {
	c.t.Helper()
	names, err := filepath.Glob(filepath.Join(c.dir, "testd-"+version+"-*.tar.gz"))
	c.ok(err)
	if len(names) != 1 {
		c.t.Fatalf("archives of %s: %q", version, names)
	}
	return "/" + filepath.Base(names[0])
}

// breakUntil holds requests for a path. came is closed at the first request; the good
// answers begin when the test closes goOn.
func (c *chain) breakUntil(path string) (came, goOn chan struct{}) {
	came, goOn = make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(came) })
	c.server.Break(path, func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		once()
		select {
		case <-goOn:
			good.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
	return came, goOn
}

// arrived waits for a request that breakUntil holds.
func (b *box) arrived(came chan struct{}) {
	b.t.Helper()
	select {
	case <-came:
	case <-time.After(machine.RunTimeout):
		b.t.Fatal("the request did not come")
	}
}

// newHeldChain is newChain with holds.
func newHeldChain(t *testing.T, target string) *chain {
	t.Helper()
	m := boot(t)
	m.holdable()
	return m.chain(heldUnit, target)
}

func unitOf(step string) string { return "machinemon-" + step + "@testd.service" }

// kill kills the worker that runs in a unit of the chain.
func (b *box) kill(step string) {
	b.t.Helper()
	b.must("systemctl", "kill", "--signal=KILL", "--kill-who=main", unitOf(step))
}

// startApply runs `machinemon-update apply testd` in the background.
func (b *box) startApply() *machine.Process {
	b.t.Helper()
	return b.start("machinemon-update", "apply", "testd")
}

// applyUntil starts an update and waits until h holds it or, if h is "", until the new
// version is on trial.
func (b *box) applyUntil(h hold) (since machine.Cursor, apply *machine.Process) {
	b.t.Helper()
	if h != "" {
		b.hold(h)
	}
	since = b.cursor()
	apply = b.startApply()
	if h != "" {
		b.awaitHeld(since, h)
	} else {
		b.awaitTrial()
	}
	return since, apply
}

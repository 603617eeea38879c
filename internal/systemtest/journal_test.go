//go:build systemd

package systemtest

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// messageIDs has the MESSAGE_IDs of machinemon-update.units(7) that occur here.
var messageIDs = map[string]string{
	"begins": "0477c0f1502a4c4caee27e8ac1fe0daf", "handed on": "11a7af30a90e44b9ab264388a3c393c8",
	"on trial": "1ed9987a99454c3c9dac458da1f378f5", "committed": "9c85b4149e00495baca84cdfc5e28ce7",
	"rolled back": "96395f63a1f34d339d7313d51c4ec5bd", "refused": "c9a8067b62524ac2aab1e7df8b738fe0",
	"interrupted": "25a978a331694228b5052829d5f8ee85", "rollback failed": "da6293d117cf45abaa6ef5f6096549e7",
}

// lines returns the lines of the last attempt: stage, event ("-" if there is none),
// priority and version, and the unit if its name is not the stage.
func (c *chain) lines() []string {
	c.t.Helper()
	id := c.history()[0].ID
	var lines []string
	decoder := json.NewDecoder(strings.NewReader(c.journal("--all", "--output=json", "MACHINEMON_ATTEMPT="+id)))
	for decoder.More() {
		var e machine.Entry
		c.ok(decoder.Decode(&e))
		if e["MACHINEMON_TARGET"] != "testd" || !strings.HasPrefix(e["MESSAGE"], "testd: attempt "+id) {
			c.t.Errorf("of another target or attempt: %q", e)
		}
		event := "-"
		for word, messageID := range messageIDs {
			if e["MESSAGE_ID"] == messageID {
				event = word
			}
		}
		if (event == "-") != (e["MESSAGE_ID"] == "") {
			c.t.Errorf("unknown event: %q", e)
		}
		stage := e["MACHINEMON_STAGE"]
		line := []string{stage, event, e["PRIORITY"], e["MACHINEMON_VERSION"]}
		if unit := e["_SYSTEMD_UNIT"]; unit != "machinemon-"+stage+"@testd.service" {
			line = append(line, unit)
		}
		lines = append(lines, strings.TrimSpace(strings.Join(line, " ")))
	}
	return lines
}

func (c *chain) assertLines(want ...string) {
	c.t.Helper()
	got := c.lines()
	// The verification and the look before the swap run at the same time.
	without := func(lines []string) []string {
		return slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return l == "baseline - 6" })
	}
	if len(got) != len(want) || !slices.Equal(without(got), without(want)) {
		c.t.Errorf("the journal has\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func (c *chain) statusText(unit string) string {
	c.t.Helper()
	return strings.TrimSpace(c.must("systemctl", "show", "--property=StatusText", "--value", unit))
}

func (c *chain) assertStatusTexts(want map[string]string) {
	c.t.Helper()
	for step, text := range want {
		if got := c.statusText("machinemon-" + step + "@testd.service"); !strings.HasPrefix(got, text) {
			c.t.Errorf("the status of %s is %q, want %q", step, got, text)
		}
	}
}

// TestJournal shows that every line of every stage can be found by its fields, and that
// systemctl status shows what each stage does.
func TestJournal(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, strings.Replace(testdTarget, "timeout_seconds = 10", "timeout_seconds = 3", 1))
	const begins = "begin begins 6  machinemon-fetch@testd.service"

	c.publish(c.dir, releases.Daemon{Version: "1.1.0"})
	c.apply(0, "committed 1.1.0")
	c.assertLines(begins, "fetch handed on 6 1.1.0", "verify handed on 6 1.1.0", "baseline - 6", "swap - 6 1.1.0",
		"swap on trial 6 1.1.0", "health-gate - 6 1.1.0", "commit - 6 1.1.0", "commit committed 6 1.1.0")
	c.assertStatusTexts(map[string]string{"fetch": "downloading: ", "verify": "unpacking", "swap": "restarting testd.service",
		"health-gate": "settling: ", "commit": "committing 1.1.0"})

	c.publish(c.dir, releases.Daemon{Version: "1.2.0", Behaviour: "never-listen"})
	c.apply(4, "rolled back 1.2.0")
	c.assertLines(begins, "fetch handed on 6 1.2.0", "verify handed on 6 1.2.0", "baseline - 6", "swap - 6 1.2.0",
		"swap on trial 6 1.2.0", "health-gate - 6 1.2.0", "rollback - 6 1.2.0", "baseline - 6 1.2.0", "rollback rolled back 4 1.2.0")
	c.assertStatusTexts(map[string]string{"rollback": "watching whether testd.service runs"})
	explained := c.journal("--catalog", "MESSAGE_ID="+messageIDs["rolled back"])
	for _, want := range []string{"Subject: testd 1.2.0 failed its trial and was rolled back", "machinemon-update unskip testd\n"} {
		if !strings.Contains(explained, want) {
			t.Errorf("journalctl --catalog does not say %q:\n%s", want, explained)
		}
	}

	c.publishFiles(c.dir, "1.3.0", releases.File{Name: "other", Content: []byte("x")})
	c.apply(6, "refused 1.3.0")
	c.assertLines(begins, "fetch handed on 6 1.3.0", "verify refused 4 1.3.0", "baseline - 6")

	// This publisher tries to write lines into the journal.
	since := c.cursor()
	manifest := filepath.Join(c.dir, "client-manifest.json")
	content, err := os.ReadFile(manifest)
	c.ok(err)
	evil := strings.ReplaceAll(string(content), `"1.3.0"`, `"1.3.0\nMESSAGE_ID=`+messageIDs["rollback failed"]+`\nPRIORITY=0\n"`)
	if evil == string(content) {
		t.Fatalf("no version in %s", content)
	}
	c.ok(os.WriteFile(manifest, []byte(evil), 0o644))
	c.apply(6, "refused")
	c.assertLines(begins, "fetch refused 4")
	entries, err := c.JournalSince(t.Context(), since)
	c.ok(err)
	for _, e := range entries {
		if e["MESSAGE_ID"] == messageIDs["rollback failed"] || e["PRIORITY"] == "0" {
			t.Errorf("the publisher wrote %q", e)
		}
	}
}

// TestJournalAtBoot shows that the umbrella's status names what it waits for, and that
// the journal has the lines of recover, which runs at boot before most other units.
func TestJournalAtBoot(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "never-listen"})
	since := c.cursor()
	c.must("systemctl", "start", "--no-block", "machinemon-update.service")
	c.await(since, func(e machine.Entry) bool { return e["MESSAGE_ID"] == messageIDs["on trial"] })
	c.ok(machine.WaitFor(t.Context(), "the umbrella shows the trial", func() bool {
		return strings.HasPrefix(c.statusText("machinemon-update.service"), "testd: watching: waiting for http http://")
	}))
	c.Yank()
	c.boot()
	c.must("systemctl", "is-system-running", "--wait")
	lines := c.lines()
	const unit = " machinemon-update-recover.service"
	want := []string{"recover - 6 1.1.0" + unit, "recover interrupted 4 1.1.0" + unit}
	if got := lines[max(0, len(lines)-2):]; !slices.Equal(got, want) {
		t.Errorf("the journal has\n\t%s\nwant at its end\n\t%s", strings.Join(lines, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// TestJournalStuck shows that a journald that does not read stops no update and no rollback.
func TestJournalStuck(t *testing.T) {
	once(t)
	t.Parallel()
	c := newChain(t, testdUnit, strings.Replace(testdTarget, "timeout_seconds = 10", "timeout_seconds = 3", 1))
	c.publish(c.dir, releases.Daemon{Version: "1.1.0", Behaviour: "never-listen"})
	c.must("systemctl", "kill", "--signal=STOP", "systemd-journald.service")
	c.fillJournal()
	c.apply(4, "rolled back 1.1.0")
	c.must("systemctl", "kill", "--signal=CONT", "systemd-journald.service")
	c.assertRuns(releases.Daemon{Version: "1.0.0"})
	c.assertLast("rollback", "rolled back", "1.0.0", "1.1.0")
	// Programs that could not send lines with fields have sent them without.
	said := c.journal("--unit=machinemon-rollback@testd.service", "--output=cat")
	for _, want := range []string{"cannot send to the journal, so lines have no fields: it does not listen\n", ": rolled back: "} {
		if !strings.Contains(said, want) {
			t.Errorf("the journal does not have %q:\n%s", want, said)
		}
	}
}

// fillJournal sends to a journald that does not read until its queue is full. A sender
// then blocks; it blocks earlier if it has sent much itself.
func (b *box) fillJournal() {
	b.t.Helper()
	for full := false; !full; {
		conn, err := net.Dial("unixgram", filepath.Join(b.Root().Name(), "run/systemd/journal/socket"))
		b.ok(err)
		for full = true; err == nil; {
			conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			if _, err = conn.Write([]byte("MESSAGE=x\n")); err == nil {
				full = false
			}
		}
		conn.Close()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			b.t.Fatal(err)
		}
	}
}

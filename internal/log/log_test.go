package log

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	_ "unsafe" // for the socket's name

	"github.com/machinemon/machinemon-update/internal/state"
)

// journalSocket is the path at which go-systemd expects the journal's socket.
//
//go:linkname journalSocket github.com/coreos/go-systemd/v22/journal.journalSocket
var journalSocket string

// listen replaces the journal's socket by one of the test's.
func listen(t *testing.T) *net.UnixConn {
	t.Helper()
	real := journalSocket
	t.Cleanup(func() { journalSocket = real })
	journalSocket = filepath.Join(t.TempDir(), "socket")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: journalSocket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// received reads the next entry as https://systemd.io/JOURNAL_NATIVE_PROTOCOL/ describes
// it. A field that comes twice fails the test.
func received(t *testing.T, c *net.UnixConn) map[string]string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 1<<20)
	n, err := c.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	entry := map[string]string{}
	for rest := buffer[:n]; len(rest) > 0; {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		if !ok {
			t.Fatalf("it ends in %q", rest)
		}
		name, value, short := strings.Cut(string(line), "=")
		if !short {
			size := binary.LittleEndian.Uint64(after)
			value, after = string(after[8:8+size]), after[8+size:]
			if after[0] != '\n' {
				t.Fatalf("no newline after %q", value)
			}
			after = after[1:]
		}
		if _, twice := entry[name]; twice {
			t.Errorf("%s comes twice", name)
		}
		entry[name] = value
		rest = after
	}
	return entry
}

func assertEntry(t *testing.T, got, want map[string]string) {
	t.Helper()
	want["SYSLOG_IDENTIFIER"] = filepath.Base(os.Args[0])
	if !maps.Equal(got, want) {
		t.Errorf("the journal got\n%q, want\n%q", got, want)
	}
}

func TestFields(t *testing.T) {
	c := listen(t)
	var stderr bytes.Buffer
	l := &Log{Stage: "swap", Target: "agent", to: &stderr, journal: true}
	l.Printf("%s: at work", "agent")
	assertEntry(t, received(t, c), map[string]string{"MESSAGE": "agent: at work", "PRIORITY": "6",
		"MACHINEMON_STAGE": "swap", "MACHINEMON_TARGET": "agent"})

	l.Ended(state.Attempt{ID: "a-1", Version: "1.1.0", Result: state.ResultRefused, Reason: "bad sha256"})
	all := map[string]string{"MESSAGE": "agent: attempt a-1: refused 1.1.0: bad sha256", "PRIORITY": "4",
		"MESSAGE_ID":       "c9a8067b62524ac2aab1e7df8b738fe0",
		"MACHINEMON_STAGE": "swap", "MACHINEMON_TARGET": "agent", "MACHINEMON_ATTEMPT": "a-1", "MACHINEMON_VERSION": "1.1.0"}
	assertEntry(t, received(t, c), all)

	l.Ended(state.Attempt{ID: "a-1", Version: "1.1.0", Result: state.ResultRefused, Reason: "bad sha256", Cause: "a secret"})
	assertEntry(t, received(t, c), all)
	delete(all, "MESSAGE_ID")
	all["MESSAGE"], all["PRIORITY"] = "agent: the cause: a secret", "6"
	assertEntry(t, received(t, c), all)

	for _, e := range []struct {
		err      error
		priority string
	}{
		{errors.New("no"), "4"},
		{state.Fail(state.ResultNotAttempted, "no"), "6"},
		{fmt.Errorf("no%w", state.Fail(state.ResultRollbackFailed, "")), "2"},
	} {
		l.Error(e.err)
		all["MESSAGE"], all["PRIORITY"] = "no", e.priority
		assertEntry(t, received(t, c), all)
	}
	if got := stderr.String(); strings.Trim(got, "\n") != "" || got == "" {
		t.Errorf("stderr got %q, want empty lines only", got)
	}
}

// TestHostile checks that text from outside adds no field and no second line.
func TestHostile(t *testing.T) {
	c := listen(t)
	const evil = "1\nMESSAGE_ID=da6293d117cf45abaa6ef5f6096549e7\nPRIORITY=0\n\x1b[2J"
	l := &Log{Target: evil, to: io.Discard, journal: true}
	l.Ended(state.Attempt{ID: evil, Version: evil, Result: state.ResultRefused, Reason: evil + strings.Repeat("x", 1<<20)})
	got := received(t, c)
	message := got["MESSAGE"]
	if len(message) > 1100 || strings.ContainsAny(message, "\n\x1b") || !strings.Contains(message, "MESSAGE_ID=da62") {
		t.Errorf("the message is %q", message)
	}
	assertEntry(t, got, map[string]string{"MESSAGE": message, "PRIORITY": "4", "MESSAGE_ID": messageIDs[Event(state.ResultRefused)],
		"MACHINEMON_TARGET": evil, "MACHINEMON_ATTEMPT": evil, "MACHINEMON_VERSION": evil})
}

// TestNoJournal checks that lines are written soon, even if the journal fails.
func TestNoJournal(t *testing.T) {
	for name, breakIt := range map[string]func(*net.UnixConn){
		"gone":  func(*net.UnixConn) { journalSocket += ".gone" },
		"stuck": func(c *net.UnixConn) { fill(t, c) },
	} {
		t.Run(name, func(t *testing.T) {
			breakIt(listen(t))
			var stderr bytes.Buffer
			l := &Log{Target: "agent", to: &stderr, journal: true}
			start := time.Now()
			l.Printf("one")
			l.Printf("two")
			if took := time.Since(start); took > patience+5*time.Second {
				t.Errorf("it took %s", took)
			}
			if got := stderr.String(); !regexp.MustCompile(`^\ncannot send to the journal, so lines have no fields: .*\none\ntwo\n$`).MatchString(got) {
				t.Errorf("stderr got %q", got)
			}
		})
	}
}

// fill makes the next sender to c wait.
func fill(t *testing.T, c *net.UnixConn) {
	t.Helper()
	sender, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: journalSocket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sender.Close() })
	for {
		if err := sender.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := sender.Write([]byte("x")); errors.Is(err, os.ErrDeadlineExceeded) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestPlain checks a process that systemd did not start, or not with its stderr.
func TestPlain(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "1:2")
	if l := New("swap", "agent"); l.journal {
		t.Error("stderr is taken for the journal")
	}
	t.Setenv("JOURNAL_STREAM", "damaged")
	if l := New("swap", "agent"); l.journal {
		t.Error("stderr is taken for the journal")
	}
	var lines bytes.Buffer
	l := Plain(&lines)
	l.Event(EventBegins, "a\nb")
	if lines.String() != "a; b\n" {
		t.Errorf("got %q", lines.String())
	}
}

// TestIDs checks that the IDs never change, because monitoring matches them.
func TestIDs(t *testing.T) {
	want := map[Event]string{
		"begins":             "0477c0f1502a4c4caee27e8ac1fe0daf",
		"not attempted":      "56fe53bdc1e340c28861fd3e00bd4a99",
		"already current":    "35c1cd9161c44ec1828b10d43a7e55ed",
		"available":          "2206db1d669f4f3aac271647c9173310",
		"handed on":          "11a7af30a90e44b9ab264388a3c393c8",
		"adopted":            "4aeb2e9f818f42aa900526d0f747ba2d",
		"on trial":           "1ed9987a99454c3c9dac458da1f378f5",
		"committed":          "9c85b4149e00495baca84cdfc5e28ce7",
		"committed unproven": "fdbd9385adb3426782343f148bfbad14",
		"not downloaded":     "672ac156402a4818ba5e384f810dce8a",
		"refused":            "c9a8067b62524ac2aab1e7df8b738fe0",
		"failed":             "668ac69d6c90497e8d442debaef78edd",
		"misconfigured":      "ad66a42e3a0247bea04f5353641f2556",
		"rolled back":        "96395f63a1f34d339d7313d51c4ec5bd",
		"interrupted":        "25a978a331694228b5052829d5f8ee85",
		"rollback failed":    "da6293d117cf45abaa6ef5f6096549e7",
		"settled":            "5a14e3ed6c974f0292c0ba4f11a76f61",
		"drill passed":       "c7f4be1fd0a04f0bb9a1e65aa0d8f2b3",
		"foreign files":      "ca2178028a2041c9a0e361c38f0ca97b",
	}
	if !maps.Equal(messageIDs, want) {
		t.Errorf("the MESSAGE_IDs are %v, want %v", messageIDs, want)
	}
	results, err := os.ReadFile("../state/result.go")
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^\t\w+ +Result = "(.*)"`).FindAllSubmatch(results, -1)
	if len(all) != len(messageIDs)-2 { // "begins" and "foreign files" are no results
		t.Errorf("%d results were found for %d events", len(all), len(messageIDs))
	}
	for _, r := range all {
		if messageIDs[Event(r[1])] == "" {
			t.Errorf("the result %q has no MESSAGE_ID", r[1])
		}
	}
}

// TestCatalog checks that the catalog explains every event, and that the manual lists it.
func TestCatalog(t *testing.T) {
	catalog, err := os.ReadFile("../../packaging/catalog/machinemon-update.catalog")
	if err != nil {
		t.Fatal(err)
	}
	manual, err := os.ReadFile("../../packaging/man/machinemon-update.units.7")
	if err != nil {
		t.Fatal(err)
	}
	var explained, want []string
	for _, m := range regexp.MustCompile(`(?m)^-- ([0-9a-f]{32})\nSubject: \S.*\nDefined-By: machinemon-update\n`).FindAllSubmatch(catalog, -1) {
		explained = append(explained, string(m[1]))
	}
	for e, id := range messageIDs {
		want = append(want, id)
		row := fmt.Sprintf("\n%s\t%s\t%d\n", e, id, e.priority())
		if !bytes.Contains(manual, []byte(row)) {
			t.Errorf("machinemon-update.units(7) has no row %q", row)
		}
	}
	slices.Sort(explained)
	slices.Sort(want)
	if !slices.Equal(explained, want) || bytes.Count(catalog, []byte("\n-- ")) != len(want) {
		t.Errorf("the catalog explains %q, want %q", explained, want)
	}
}

package checkin

import (
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

const lot = "40755ef0668a459988cb675ce4da3a95"

func TestStatusLine(t *testing.T) {
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	s := Status{Target: "agent", Installed: "1.8", Available: "1.9", Result: "rolled back", Version: "1.9", Time: &at,
		Held: true, Rejected: "1.9", Lot: lot, Reason: `exit status 1: "no <such> file"`}
	const want = `machinemon-update {"target":"agent","installed":"1.8","available":"1.9","result":"rolled back","version":"1.9",` +
		`"time":"2026-11-01T12:00:00Z","held":true,"rejected":"1.9","lot":"40755ef0668a459988cb675ce4da3a95","reason":"exit status 1: \"no <such> file\""}`
	if got := s.Line(); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	got, ok := ParseStatus("a warning of the shell\n" + want + "\n")
	if !ok || !reflect.DeepEqual(got, s) {
		t.Errorf("read back: %+v, %t", got, ok)
	}

	// Long texts, and texts that JSON escapes, still give one line that fits.
	name := strings.Repeat("a", 64)
	for what, reason := range map[string]string{
		"plain": strings.Repeat("x", 1000), "umlauts": strings.Repeat("ü", 600), "quotes": strings.Repeat(`"`, 1000),
		"controls": strings.Repeat("\x01", 1000), "not UTF-8": strings.Repeat("\xff", 1000),
	} {
		s := Status{Target: name, Installed: name, Available: name, Result: "committed unproven", Version: name, Time: &at,
			Held: true, Rejected: name, Lot: lot, Reason: reason}
		line := s.Line()
		if len(line) > MaxStatus || !utf8.ValidString(line) || strings.Contains(line, "\n") {
			t.Errorf("%s: %d bytes: %s", what, len(line), line)
		}
		if back, ok := ParseStatus(line); !ok || back.Rejected != name {
			t.Errorf("%s: read back: %+v, %t", what, back, ok)
		}
	}
	if s.Reason = strings.Repeat("x", 1000); len(s.Line()) < MaxStatus-10 {
		t.Errorf("the reason is cut to %d of %d bytes", len(s.Line()), MaxStatus)
	}
}

func TestStatusHeader(t *testing.T) {
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	s := Status{Target: "agent", Result: "rolled back", Time: &at, Reason: "exit status 1: „nö“ 😀\x7f\t\"<x>\"\u2028"}
	const want = `machinemon-update {"target":"agent","result":"rolled back","time":"2026-11-01T12:00:00Z",` +
		`"reason":"exit status 1: \u201en\u00f6\u201c \ud83d\ude00\u007f\t\"<x>\"\u2028"}`
	if got := s.Header(); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	if got, ok := ParseHeader(want); !ok || !reflect.DeepEqual(got, s) {
		t.Errorf("read back: %+v, %t", got, ok)
	}
	// The longest headers are still read.
	for _, reason := range []string{strings.Repeat("ü", 600), strings.Repeat("€", 600), strings.Repeat("😀", 600), strings.Repeat("\x7f", 600), strings.Repeat("x", 600)} {
		s.Reason = reason
		if got, ok := ParseHeader(s.Header()); !ok || got.Target != "agent" {
			t.Errorf("%q is not read", s.Header())
		}
	}
	for _, value := range []string{"", "x", `{"target":"agent"}`, "machinemon-update {}", `machinemon-update {"target":"agent"} x`,
		"machinemon-update {\"target\":\"\xff\"}", `machinemon-update {"target":"` + strings.Repeat("x", 3000) + `"}`} {
		if s, ok := ParseHeader(value); ok {
			t.Errorf("%q is read as %+v", value, s)
		}
	}
}

func TestParseStatusRefuses(t *testing.T) {
	for _, output := range []string{
		"", "ok", `{"target":"agent"}`, "machinemon-update ", "machinemon-update {}", `machinemon-update {"target":7}`,
		`machinemon-update {"target":"agent"`, `machinemon-update {"target":"agent"} x`, "machinemon-update {\"target\":\"\xff\"}",
		`x machinemon-update {"target":"agent"}`, `machinemon-update {"target":"` + strings.Repeat("x", 500) + `"}`,
	} {
		if s, ok := ParseStatus(output); ok {
			t.Errorf("%q is read as %+v", output, s)
		}
	}
}

func TestStatusLineControlsNoTerminal(t *testing.T) {
	const hostile = "1.9\u009b31m\u202egnp"
	line := Status{Target: "agent", Installed: hostile, Available: hostile, Result: hostile, Version: hostile, Rejected: hostile, Reason: hostile}.Line()
	for _, r := range line {
		if !unicode.IsPrint(r) {
			t.Fatalf("%U in %q", r, line)
		}
	}
}

package checkin

import (
	"bytes"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// FuzzAnnounced: whatever a server answers, the version is one that may be a name, and
// there is none beside an error.
func FuzzAnnounced(f *testing.F) {
	for _, seed := range []string{`{"update_version": "v1.2.3"}`, `{"client_id": "a", "UPDATE_VERSION": "x", "update_version": null}`,
		`{"update_version": "../x", "update_version": "1"}`, `{"update_version": 7}`, `[]`, `null`, "{\"a\": \"\xff\"}", `{"a": {"update_version": "1"}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		version, err := Announced(bytes.NewReader(answer))
		if version != "" && (err != nil || !manifest.ValidName(version)) {
			t.Errorf("%q, %v", version, err)
		}
	})
}

// FuzzStatus: a status that a machine may send says the same after it is sent again, and
// fits in the line.
func FuzzStatus(f *testing.F) {
	for _, seed := range []string{mark + `{"target": "agent", "version": "1.0.0", "result": "committed", "time": "2026-01-02T03:04:05Z"}`,
		mark + `{"target": "agent", "reason": "ü\u202e<>&\u0000 ` + strings.Repeat("x", 300) + `", "held": true}`, "noise\r\n" + mark + `{"target": "a"}` + "\r\nmore", mark + "{}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, output string) {
		s, ok := ParseStatus(output)
		if header, found := ParseHeader(strings.TrimRight(output, "\r\n")); found {
			s, ok = header, true
		}
		if !ok {
			return
		}
		line, header := s.Line(), s.Header()
		if len(line) > MaxStatus && (s.Reason != "" || s.Lot != "") && len(s.Target)+len(s.Version)+len(s.Result)+len(s.Rejected) < MaxStatus/8 {
			t.Errorf("a line of %d bytes", len(line))
		}
		if strings.ContainsAny(line, "\r\n") || strings.Trim(header, printable) != "" {
			t.Errorf("line %q, header %q", line, header)
		}
		again, ok := ParseStatus(line)
		if !ok && len(line) <= MaxStatus && line != mark+"{}" {
			t.Errorf("%q is no status", line)
		}
		if sent, ok2 := ParseHeader(header); ok && (!ok2 || sent.Line() != again.Line() || again.Target != s.Target) {
			t.Errorf("line %q, header %q", again.Line(), sent.Line())
		}
	})
}

var printable = func() string {
	var all []byte
	for c := byte(' '); c <= '~'; c++ {
		all = append(all, c)
	}
	return string(all)
}()

package checkin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxStatus is how long a status line may be, in bytes: MachineMon keeps the last
// 500 bytes of what a check prints, the newline among them.
const MaxStatus = 499

// StatusHeader is the header with which the relay sends a status line along.
const StatusHeader = "X-Machinemon-Update"

// mark begins a status line.
const mark = "machinemon-update "

// Status is how one target of a machine is, as the machine itself says: its line is
// what an agent's check prints, and comes to the server in a check-in: in what the
// check reports, or in a header of the relay's.
type Status struct {
	Target    string     `json:"target"`
	Installed string     `json:"installed,omitempty"`
	Available string     `json:"available,omitempty"`
	Result    string     `json:"result,omitempty"`  // of the last attempt
	Version   string     `json:"version,omitempty"` // what that was about
	Time      *time.Time `json:"time,omitempty"`    // when it ended
	Held      bool       `json:"held,omitempty"`
	Rejected  string     `json:"rejected,omitempty"` // the last version that was
	Reason    string     `json:"reason,omitempty"`   // of the result
}

// Line is the status on one line of at most MaxStatus bytes, without the newline.
// The reason is cut to make it fit.
func (s Status) Line() string {
	for {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(s); err != nil {
			return mark + "{}" // a time beyond the year 9999
		}
		line := mark + strings.TrimSuffix(b.String(), "\n")
		over := len(line) - MaxStatus
		if over <= 0 || s.Reason == "" {
			return line
		}
		// One byte of it may stand as six.
		s.Reason = strings.ToValidUTF8(s.Reason[:max(0, len(s.Reason)-(over+5)/6-len("…"))], "")
		if s.Reason != "" {
			s.Reason += "…"
		}
	}
}

// Header is the status line as the value of a header: the same JSON, in ASCII.
func (s Status) Header() string {
	var b strings.Builder
	for _, r := range s.Line() {
		if r >= ' ' && r <= '~' {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// ParseHeader reads the value of a status header.
func ParseHeader(value string) (s Status, ok bool) {
	// A character has at most two bytes as UTF-8 for every six as ASCII.
	doc, ours := strings.CutPrefix(value, mark)
	ok = ours && len(doc) <= 6*MaxStatus && utf8.ValidString(doc) && json.Unmarshal([]byte(doc), &s) == nil && s.Target != ""
	if !ok {
		return Status{}, false
	}
	return s, true
}

// ParseStatus finds a status line in what a check printed.
func ParseStatus(output string) (s Status, ok bool) {
	for line := range strings.Lines(output) {
		doc, ours := strings.CutPrefix(strings.TrimRight(line, "\r\n"), mark)
		if ours && utf8.ValidString(doc) && len(doc) <= MaxStatus && json.Unmarshal([]byte(doc), &s) == nil && s.Target != "" {
			return s, true
		}
	}
	return Status{}, false
}

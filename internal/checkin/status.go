package checkin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/machinemon/machinemon-update/internal/state"
)

// MaxStatus is the greatest length of a status line in bytes, without its newline:
// MachineMon keeps the last 500 bytes of the output of a check.
const MaxStatus = 499

// StatusHeader is the HTTP header in which the relay sends a status line.
const StatusHeader = "X-Machinemon-Update"

// mark is the beginning of each status line.
const mark = "machinemon-update "

// MayHaveStatus reports whether JSON, or JSON in a string of it, can contain a status line.
// JSON can write a letter only as it is, or as \u00 and two digits.
func MayHaveStatus(raw []byte) bool {
	return bytes.Contains(raw, []byte(mark)) || bytes.Contains(raw, []byte(`\u00`))
}

// Status describes the updates of one target, as its machine reports them. A check-in
// carries it as one line, in the output of an agent's check or in a StatusHeader.
type Status struct {
	Target    string     `json:"target"`
	Installed string     `json:"installed,omitempty"`
	Available string     `json:"available,omitempty"`
	Result    string     `json:"result,omitempty"`  // of the last attempt
	Version   string     `json:"version,omitempty"` // that the last attempt was to install
	Time      *time.Time `json:"time,omitempty"`    // at which the last attempt ended
	Held      bool       `json:"held,omitempty"`
	Rejected  string     `json:"rejected,omitempty"` // version that was rejected last
	// Drift says that the installed files, or the process, are not as the last update left
	// them.
	Drift bool `json:"drift,omitempty"`
	// Lot is the machine's ID for staged rollouts: see [rollout.ID].
	Lot    string `json:"lot,omitempty"`
	Reason string `json:"reason,omitempty"` // of Result
}

// Line returns the status as one line of at most MaxStatus bytes, by shortening Reason and,
// if versions of a great length leave no room for it, without Lot.
// A text may come from a release or its server, so none may control a terminal.
func (s Status) Line() string {
	for {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(s); err != nil {
			return mark + "{}" // JSON cannot express a Time after the year 9999
		}
		line := mark + state.EscapeJSON(strings.TrimSuffix(b.String(), "\n"))
		over := len(line) - MaxStatus
		if over <= 0 || s.Reason == "" && s.Lot == "" {
			return line
		}
		if s.Reason == "" {
			s.Lot = ""
			continue
		}
		// JSON may escape one byte of Reason with six.
		s.Reason = strings.ToValidUTF8(s.Reason[:max(0, len(s.Reason)-(over+5)/6-len("…"))], "")
		if s.Reason != "" {
			s.Reason += "…"
		}
	}
}

// Header returns the status line as the value of StatusHeader: the same JSON, with
// other characters than printable ASCII escaped.
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

// ParseHeader reads the value of a StatusHeader. It reports whether that is a status.
func ParseHeader(value string) (s Status, ok bool) {
	// Escaping makes at most six bytes of each byte of the line.
	doc, ours := strings.CutPrefix(value, mark)
	ok = ours && len(doc) <= 6*MaxStatus && utf8.ValidString(doc) && json.Unmarshal([]byte(doc), &s) == nil && s.Target != ""
	if !ok {
		return Status{}, false
	}
	return s, true
}

// ParseStatus finds the first status line in the output of a check, if there is one.
func ParseStatus(output string) (s Status, ok bool) {
	for line := range strings.Lines(output) {
		doc, ours := strings.CutPrefix(strings.TrimRight(line, "\r\n"), mark)
		if ours && utf8.ValidString(doc) && len(doc) <= MaxStatus && json.Unmarshal([]byte(doc), &s) == nil && s.Target != "" {
			return s, true
		}
	}
	return Status{}, false
}

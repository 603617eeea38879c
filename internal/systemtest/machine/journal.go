package machine

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"syscall"
)

// Entry is one journal entry, by field name. The values of a field that occurs more than
// once are joined by newlines.
type Entry map[string]string

// UnmarshalJSON reads an entry of journalctl's export. A value is a string, null for a
// value that was too long, an array of bytes, or an array of values.
func (e *Entry) UnmarshalJSON(b []byte) error {
	var raw map[string]any
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	*e = make(Entry, len(raw))
	for key, value := range raw {
		switch v := value.(type) {
		case string:
			(*e)[key] = v
		case []any:
			var s strings.Builder
			for i, item := range v {
				if n, ok := item.(float64); ok {
					s.WriteByte(byte(n))
					continue
				}
				if i > 0 {
					s.WriteByte('\n')
				}
				fmt.Fprint(&s, item)
			}
			(*e)[key] = s.String()
		}
	}
	return nil
}

func (e Entry) String() string {
	return fmt.Sprintf("%s[%s]: %s", e["SYSLOG_IDENTIFIER"], e["_PID"], e["MESSAGE"])
}

// Cursor is a place in the journal. Searches begin after it.
type Cursor string

// JournalCursor returns the cursor of the journal's present end.
func (m *Machine) JournalCursor(ctx context.Context) (Cursor, error) {
	if err := m.SyncJournal(ctx); err != nil {
		return "", err
	}
	r, err := m.Run(ctx, "journalctl", "--lines=1", "--output=json", "--output-fields=MESSAGE")
	if err != nil {
		return "", err
	}
	var e Entry
	if err := json.Unmarshal([]byte(r.Stdout), &e); err != nil {
		return "", fmt.Errorf("cannot read the journal of %s: %w: %s%s", m.Name, err, r.Stdout, r.Stderr)
	}
	return Cursor(e["__CURSOR"]), nil
}

// SyncJournal returns when the journal has written what was sent to it before this call.
func (m *Machine) SyncJournal(ctx context.Context) error {
	r, err := m.Run(ctx, "journalctl", "--sync")
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("journalctl --sync exited %d: %s", r.Code, r.Stderr)
	}
	return err
}

// JournalSince returns all entries logged after the cursor and before this call.
func (m *Machine) JournalSince(ctx context.Context, after Cursor) ([]Entry, error) {
	if err := m.SyncJournal(ctx); err != nil {
		return nil, err
	}
	r, err := m.Run(ctx, "journalctl", "--all", "--output=json", "--after-cursor="+string(after))
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for lines := json.NewDecoder(strings.NewReader(r.Stdout)); ; {
		var e Entry
		if err := lines.Decode(&e); err == io.EOF {
			return entries, nil
		} else if err != nil {
			return nil, fmt.Errorf("cannot read the journal of %s: %w", m.Name, err)
		}
		entries = append(entries, e)
	}
}

// AwaitJournal returns the first matching entry after the cursor. It waits for one until
// ctx ends, or for RunTimeout if ctx has no deadline.
func (m *Machine) AwaitJournal(ctx context.Context, after Cursor, match func(Entry) bool) (Entry, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, RunTimeout)
		defer cancel()
	}
	r, w := io.Pipe()
	p, err := m.StartTo(w, "journalctl", "--all", "--follow", "--no-tail", "--output=json", "--after-cursor="+string(after))
	if err != nil {
		return nil, err
	}
	defer func() {
		r.Close()
		p.Signal(syscall.SIGKILL)
		<-p.ended
	}()
	// This ends the loop below when ctx ends or the power of the machine is cut.
	stop := context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) })
	defer stop()
	go func() {
		<-p.ended
		w.CloseWithError(io.ErrUnexpectedEOF)
	}()
	for lines := json.NewDecoder(bufio.NewReader(r)); ; {
		var e Entry
		if err := lines.Decode(&e); err != nil {
			return nil, fmt.Errorf("cannot find the awaited entry in the journal of %s: %w", m.Name, err)
		}
		if match(e) {
			return e, nil
		}
	}
}

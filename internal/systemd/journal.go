package systemd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// LogLine is a line in the journal that a process of a unit wrote.
type LogLine struct {
	Text       string
	Invocation string        // the invocation ID of the unit; "" if the journal has none
	PID        uint32        // the process that wrote it, or that opened its standard output; 0 if the journal has none
	At         time.Duration // when the journal received it, by [Monotonic]
}

// journalctl is the program that reads the journal; systemd's library would need cgo.
var journalctl = "/usr/bin/journalctl"

// mostLog limits how many bytes of journalctl's output are read: one line of a unit may
// have many megabytes.
const mostLog = 1 << 20

// LastLines reads the newest lines, n at most, that the processes of the unit wrote in
// this boot, the oldest first. Lines of systemd about the unit are not among them. boot
// is the boot's ID as systemd prints it: %b in a unit file.
func (c *Conn) LastLines(ctx context.Context, unit, boot string, n int) ([]LogLine, error) {
	if boot == "" {
		return nil, fmt.Errorf("cannot read the journal of %s: the boot's ID is not known", unit)
	}
	// --reverse, so that the limit cuts off the oldest lines. Not --boot: it reads the
	// boot's ID from a file that ProcSubset=pid hides.
	cmd := exec.CommandContext(ctx, journalctl, "--quiet", "--no-pager", "--all", "--reverse", "--lines="+strconv.Itoa(n),
		"--output=json", "--output-fields=MESSAGE,_PID,_SYSTEMD_INVOCATION_ID", "_SYSTEMD_UNIT="+unit, "_BOOT_ID="+boot)
	cmd.Env = []string{"LANG=C.UTF-8"}
	cmd.WaitDelay = 100 * time.Millisecond
	var out, said cappedBuffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil && !out.full {
		if ctx.Err() != nil {
			err = errors.New("journalctl does not end")
		} else if len(said.data) > 0 {
			err = errors.New(strings.TrimSpace(string(said.data)))
		}
		return nil, fmt.Errorf("cannot read the journal of %s: %w", unit, err)
	}
	lines := parseLog(out.data)
	slices.Reverse(lines)
	return lines, nil
}

// LinesSince reads the last lines, a hundred at most, that the processes of the unit wrote
// since a time of [Monotonic], once the journal has them all in its files.
func (c *Conn) LinesSince(ctx context.Context, unit string, since time.Duration) (text []string, err error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err == nil {
		err = exec.CommandContext(ctx, journalctl, "--sync").Run()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the journal of %s: %w", unit, err)
	}
	lines, err := c.LastLines(ctx, unit, strings.ReplaceAll(strings.TrimSpace(string(boot)), "-", ""), 100)
	for _, l := range lines {
		if l.At >= since {
			text = append(text, l.Text)
		}
	}
	return text, err
}

// parseLog reads journalctl's JSON up to its end or to an entry that was cut off.
func parseLog(doc []byte) (lines []LogLine) {
	for d := json.NewDecoder(bytes.NewReader(doc)); ; {
		var e struct {
			Message    message `json:"MESSAGE"`
			Invocation string  `json:"_SYSTEMD_INVOCATION_ID"`
			PID        string  `json:"_PID"`
			Monotonic  string  `json:"__MONOTONIC_TIMESTAMP"`
		}
		if d.Decode(&e) != nil {
			return lines
		}
		usec, err := strconv.ParseInt(e.Monotonic, 10, 64)
		if err != nil {
			continue // every entry of a journal has one
		}
		pid, err := strconv.ParseUint(e.PID, 10, 32)
		if err != nil {
			pid = 0 // the kernel's lines have none
		}
		lines = append(lines, LogLine{string(e.Message), e.Invocation, uint32(pid), time.Duration(usec) * time.Microsecond})
	}
}

// message is a field as journalctl exports it: a string; the numbers of its bytes if
// some are not printable; or a list of both if the entry has several such fields.
type message string

func (m *message) UnmarshalJSON(b []byte) error {
	var text string
	var raw []byte
	var numbers []uint16
	var several []message
	switch {
	case json.Unmarshal(b, &text) == nil:
	case json.Unmarshal(b, &numbers) == nil:
		for _, n := range numbers {
			raw = append(raw, byte(n))
		}
		text = string(raw)
	case json.Unmarshal(b, &several) == nil:
		for _, one := range several {
			text += string(one) + "\n"
		}
	}
	*m = message(text)
	return nil
}

// cappedBuffer keeps the first mostLog bytes that are written to it and refuses more,
// so that SIGPIPE ends the program that writes them.
type cappedBuffer struct {
	data []byte
	full bool
}

func (b *cappedBuffer) Write(p []byte) (int, error) {
	n := min(len(p), mostLog-len(b.data))
	b.data = append(b.data, p[:n]...)
	if n < len(p) {
		b.full = true
		return n, errors.New("no more is read")
	}
	return n, nil
}

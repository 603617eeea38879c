package systemd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Logged is a line of the journal about a unit, from its processes or from systemd.
type Logged struct {
	At         time.Time
	Unit, Text string
}

// systemctl is the program that prints the properties of units.
var systemctl = "/usr/bin/systemctl"

// read runs a program of systemd and returns the beginning of its output.
func read(ctx context.Context, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"LANG=C.UTF-8"}
	cmd.WaitDelay = 100 * time.Millisecond
	var out, said cappedBuffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil && !out.full {
		if ctx.Err() != nil {
			err = errors.New("it does not end")
		} else if len(said.data) > 0 {
			err = errors.New(strings.TrimSpace(string(said.data)))
		}
		return nil, fmt.Errorf("%s: %w", argv[0], err)
	}
	return out.data, nil
}

// Slice reads the newest lines, n at most, about the units since a time, the oldest first.
func Slice(ctx context.Context, since time.Time, n int, units ...string) ([]Logged, error) {
	argv := []string{journalctl, "--quiet", "--no-pager", "--all", "--reverse", "--lines=" + strconv.Itoa(n), "--output=json",
		"--output-fields=MESSAGE,UNIT,_SYSTEMD_UNIT", "--since=@" + strconv.FormatInt(since.Unix(), 10)}
	for _, unit := range units {
		argv = append(argv, "--unit="+unit)
	}
	doc, err := read(ctx, argv...)
	if err != nil {
		return nil, fmt.Errorf("cannot read the journal: %w", err)
	}
	var lines []Logged
	for d := json.NewDecoder(bytes.NewReader(doc)); ; {
		var e struct {
			Message message `json:"MESSAGE"`
			About   message `json:"UNIT"` // in lines of systemd
			Of      message `json:"_SYSTEMD_UNIT"`
			Time    string  `json:"__REALTIME_TIMESTAMP"`
		}
		if d.Decode(&e) != nil { // the end, or an entry that was cut off
			slices.Reverse(lines)
			return lines, nil
		}
		usec, err := strconv.ParseInt(e.Time, 10, 64)
		if err != nil {
			continue // every entry has one
		}
		unit := string(e.Of)
		if e.About != "" {
			unit = string(e.About)
		}
		lines = append(lines, Logged{time.UnixMicro(usec), unit, string(e.Message)})
	}
}

// shown are the properties of [Show].
var shown = []string{"LoadState", "ActiveState", "SubState", "Result", "MainPID", "ExecMainPID", "ExecMainCode", "ExecMainStatus", "ExecMainStartTimestamp",
	"ExecMainExitTimestamp", "NRestarts", "FragmentPath", "DropInPaths", "NeedDaemonReload", "InvocationID"}

// Show returns properties of a unit as NAME=VALUE. None of them has a command or a variable, in
// which there may be a secret.
func Show(ctx context.Context, unit string) ([]string, error) {
	doc, err := read(ctx, systemctl, "show", "--no-pager", "--property="+strings.Join(shown, ","), unit)
	if err != nil {
		return nil, fmt.Errorf("cannot read the properties of %s: %w", unit, err)
	}
	return strings.Split(strings.TrimSpace(string(doc)), "\n"), nil
}

package systemd

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakeJournal has this script stand in for journalctl.
func fakeJournal(t *testing.T, script string) {
	t.Helper()
	real := journalctl
	journalctl = filepath.Join(t.TempDir(), "journalctl")
	t.Cleanup(func() { journalctl = real })
	if err := os.WriteFile(journalctl, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestLastLines(t *testing.T) {
	const last = `{"MESSAGE":"newest","_PID":"42","_SYSTEMD_INVOCATION_ID":"2nd","__MONOTONIC_TIMESTAMP":"3000000"}` + "\n"
	for _, c := range []struct {
		name, script string
		want         []LogLine
		err          string
	}{
		{name: "none", script: "exit 0"},
		{name: "every kind of a message", script: `cat <<'END'
` + last + `{"MESSAGE":[27,91,51,49,109,255],"_SYSTEMD_INVOCATION_ID":"1st","__MONOTONIC_TIMESTAMP":"2000000"}
{"MESSAGE":["one",[116,119,111]],"__MONOTONIC_TIMESTAMP":"1000000"}
{"MESSAGE":null,"__MONOTONIC_TIMESTAMP":"1000000"}
END`, want: []LogLine{{"", "", 0, time.Second}, {"one\ntwo\n", "", 0, time.Second}, {"\x1b[31m\xff", "1st", 0, 2 * time.Second}, {"newest", "2nd", 42, 3 * time.Second}}},
		{name: "without end", script: "echo '" + strings.TrimSpace(last) + "'; yes | head -c 100000000", want: []LogLine{{"newest", "2nd", 42, 3 * time.Second}}},
		{name: "it fails", script: "echo 'no journal' >&2; exit 1", err: "cannot read the journal of x.service: no journal"},
		{name: "it dies", script: "kill -9 $$", err: "cannot read the journal of x.service: signal: killed"},
		{name: "it hangs", script: "exec sleep 100", err: "cannot read the journal of x.service: journalctl does not end"},
		{name: "a child of it holds its output", script: "sleep 100 & exit 0", err: "cannot read the journal of x.service: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			fakeJournal(t, c.script)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			start := time.Now()
			got, err := (*Conn)(nil).LastLines(ctx, "x.service", "b00t", 5)
			if !slices.Equal(got, c.want) || (err == nil) != (c.err == "") || err != nil && !strings.HasPrefix(err.Error(), c.err) {
				t.Errorf("%+v, %v\nwant %+v, %s", got, err, c.want, c.err)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	fakeJournal(t, `printf '{"MESSAGE":"%s","__MONOTONIC_TIMESTAMP":"1"}' "$*"`)
	got, err := (*Conn)(nil).LastLines(t.Context(), "x.service", "b00t", 5)
	if err != nil || len(got) != 1 || !strings.Contains(got[0].Text, "--lines=5 ") || !strings.HasSuffix(got[0].Text, "_SYSTEMD_UNIT=x.service _BOOT_ID=b00t") {
		t.Errorf("asked with %+v, %v", got, err)
	}
	if _, err := (*Conn)(nil).LastLines(t.Context(), "x.service", "", 5); err == nil || !strings.Contains(err.Error(), "the boot's ID is not known") {
		t.Errorf("without a boot: %v", err)
	}
}

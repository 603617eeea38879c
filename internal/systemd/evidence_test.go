package systemd

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSlice(t *testing.T) {
	fakeJournal(t, `echo "$*" >$0.args
cat <<'END'
{"MESSAGE":"Started x","UNIT":"x.service","_SYSTEMD_UNIT":"init.scope","__REALTIME_TIMESTAMP":"3000000"}
{"MESSAGE":[27,255],"_SYSTEMD_UNIT":"y.service","__REALTIME_TIMESTAMP":"2000000"}
{"MESSAGE":null,"__REALTIME_TIMESTAMP":"1000000"}
{"MESSAGE":"cut`+"\nEND\n")
	got, err := Slice(t.Context(), time.Unix(7, 0), 9, "x.service", "y.service")
	want := []Logged{{time.Unix(1, 0), "", ""}, {time.Unix(2, 0), "y.service", "\x1b\xff"}, {time.Unix(3, 0), "x.service", "Started x"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	args, err := os.ReadFile(journalctl + ".args")
	if err != nil || !strings.Contains(string(args), "--lines=9 ") || !strings.HasSuffix(string(args), "--since=@7 --unit=x.service --unit=y.service\n") {
		t.Errorf("asked with %s, %v", args, err)
	}
	fakeJournal(t, "echo 'no journal' >&2; exit 1")
	if _, err := Slice(t.Context(), time.Unix(7, 0), 9); err == nil || !strings.Contains(err.Error(), "no journal") {
		t.Errorf("the error is %v", err)
	}
}

func TestShow(t *testing.T) {
	real := systemctl
	systemctl = filepath.Join(t.TempDir(), "systemctl")
	t.Cleanup(func() { systemctl = real })
	script := "#!/bin/sh\ncase \"$*\" in *Environment*|*ExecStart=*|*ExecStart,*) exit 1; esac\nprintf 'Result=success\\nNRestarts=3\\n'\n"
	if err := os.WriteFile(systemctl, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := Show(t.Context(), "x.service")
	if err != nil || !slices.Equal(got, []string{"Result=success", "NRestarts=3"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

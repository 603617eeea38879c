package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestMain runs the tests, or the program itself.
func TestMain(m *testing.M) {
	if os.Getenv("SWAPPER_TEST") != "" {
		os.Exit(run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func swapper(uid int, args ...string) (out string, status int) {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = []string{"SWAPPER_TEST=1"}
	if uid != os.Getuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	all, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return fmt.Sprint(err), -1
	}
	return string(all), cmd.ProcessState.ExitCode()
}

// TestSnapshot checks that a user saves and restores its data; all else needs root.
func TestSnapshot(t *testing.T) {
	user := os.Getuid()
	dir := t.TempDir()
	if user == 0 {
		user = 1234
		for _, d := range []string{dir, filepath.Dir(dir)} { // the umask may make the parent 0700
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chown(dir, user, user); err != nil {
			t.Fatal(err)
		}
	}
	db, wal, backup := dir+"/db", dir+"/db-wal", dir+"/backup"
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, user, user); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want string, status int, args ...string) {
		t.Helper()
		if out, got := swapper(user, args...); got != status || !strings.HasPrefix(out, want) || status == 1 && strings.Count(out, "\n") != 1 {
			t.Errorf("%v: status %d, %q; want %d, %q", args, got, out, status, want)
		}
	}
	write(db, "rows")
	expect("1 entries, 4 bytes\n", 0, "snapshot-save", "1000000", db, backup)
	write(db, "other rows")
	write(wal, "more rows")
	expect("", 0, "snapshot-restore", backup, db, "-", wal)
	if got, err := os.ReadFile(db); err != nil || string(got) != "rows" {
		t.Errorf("restored are %q, %v", got, err)
	}
	if _, err := os.Stat(wal); !os.IsNotExist(err) {
		t.Errorf("%s: %v", wal, err)
	}
	expect("cannot save "+db+": the place of the backup is occupied", 1, "snapshot-save", "1000000", db, backup)
	expect("cannot save "+db, 1, "snapshot-save", "1", db, dir+"/second")
	expect("cannot restore "+db, 1, "snapshot-restore", dir+"/none", db)
	for _, args := range [][]string{{"snapshot-save"}, {"snapshot-save", "x", db, backup}, {"snapshot-save", "-1", db, backup}, {"snapshot-save", "1", db}, {"snapshot-restore", db}, {"snapshot-restore"}} {
		expect("usage: swapper ", 2, args...)
	}
	expect("swapper: needs root\n", 2, "swap", "agent")
}

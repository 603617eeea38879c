// Package testkit has helpers that the tests of several packages share. Only tests import
// it. It imports no package of the module, so that the tests of every package can use it.
package testkit

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Must ends the test if err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// NeedRoot ends a test that only root can run, for the reason given. Without root the
// test fails, so that an incomplete run does not pass; with -short it is skipped.
func NeedRoot(t testing.TB, reason string) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if testing.Short() {
		t.Skip("needs root: " + reason)
	}
	t.Fatalf("cannot run without root: %s (hint: run it as root, or leave such tests out with -short)", reason)
}

// Slow skips a test under -short, because it takes a third of a second of a processor or
// more; "make test" runs it.
func Slow(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("is slow")
	}
}

// Within fails the test if f does not return within 20 s, for example because it opens a
// FIFO.
func Within(t testing.TB, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it hangs")
	}
}

// Put writes a file, and makes its directory.
func Put(t testing.TB, path, content string) {
	t.Helper()
	Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	Must(t, os.WriteFile(path, []byte(content), 0o644))
}

// Names returns all names in a directory, hidden ones too, in alphabetical order. It
// returns none if the directory does not exist.
func Names(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		Must(t, err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Tree makes the directories that the units and tmpfiles.d make for a target named agent,
// and returns the Var and the Run of a state.Tree.
func Tree(t testing.TB) (varDir, runDir string) {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"var/fetch/agent", "var/verify/agent", "var/swap/agent",
		"run/request", "run/attempt", "run/gate/agent", "run/baseline", "run/lock"} {
		Must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	return filepath.Join(dir, "var"), filepath.Join(dir, "run")
}

package durable

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestRemoveTree checks that all of a tree goes, and nothing to which its links lead.
func TestRemoveTree(t *testing.T) {
	testkit.Slow(t)
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/precious/x", 0o755))
	must(t, os.WriteFile(dir+"/file", []byte("x"), 0o600))
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	for i, plant := range []func(string) error{
		func(string) error { return nil }, // there is none
		func(p string) error { return os.WriteFile(p, nil, 0) },
		func(p string) error { return os.Symlink("precious", p) },
		func(p string) error { return os.Symlink("/etc", p) },
		func(p string) error { return unix.Mkfifo(p, 0o600) },
		func(p string) error { return os.MkdirAll(p+"/a/b/c/d", 0o755) },
		func(p string) error {
			must(t, os.MkdirAll(p+"/a/b", 0o755))
			must(t, os.Symlink(dir+"/precious", p+"/a/b/out"))
			must(t, os.Symlink("../../../precious", p+"/a/up"))
			must(t, unix.Mkfifo(p+"/a/fifo", 0))
			for n := range 2500 { // more than one batch, on three levels
				must(t, os.MkdirAll(fmt.Sprintf("%s/%d/%d/x", p, n%50, n), 0o755))
			}
			return os.WriteFile(p+"/a/b/file", []byte("x"), 0o400)
		},
	} {
		name := "tree" + strconv.Itoa(i)
		must(t, plant(dir+"/"+name))
		if err := RemoveTree(root, name); err != nil {
			t.Errorf("%d: %v", i, err)
		}
		if _, err := root.Lstat(name); !os.IsNotExist(err) {
			t.Errorf("%d: it is still there: %v", i, err)
		}
	}
	if _, err := os.Stat(dir + "/precious/x"); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
	// There is nothing to remove in what is no directory, and no way out.
	if err := RemoveTree(root, "../"+"x"); err == nil {
		t.Error("it leaves root")
	}
}

// TestRemoveDeepTree has a tree that is deeper than the greatest number of open files, and
// whose paths are longer than the kernel takes.
func TestRemoveDeepTree(t *testing.T) {
	testkit.Slow(t)
	dir := t.TempDir()
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) }()
	deep(t, dir, 1500)
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 200, Max: old.Max}))
	must(t, RemoveTree(root, "deep"))
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// deep makes a tree of so many levels.
func deep(t *testing.T, dir string, levels int) {
	t.Helper()
	at, err := unix.Open(dir, unix.O_DIRECTORY, 0)
	must(t, err)
	name := "deep"
	for range levels {
		must(t, unix.Mkdirat(at, name, 0o700))
		next, err := unix.Openat(at, name, unix.O_DIRECTORY, 0)
		must(t, err)
		must(t, unix.Close(at))
		at, name = next, "a-name-of-some-length"
	}
	must(t, unix.Close(at))
}

// TestNamesIn checks that a flood of names does not fill the memory.
func TestNamesIn(t *testing.T) {
	testkit.Slow(t)
	dir := t.TempDir()
	for n := range 3000 {
		must(t, os.WriteFile(fmt.Sprintf("%s/%0200d", dir, n), nil, 0o600))
	}
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n := 0
	for _, err := range NamesIn(root) {
		must(t, err)
		if n++; n == 5 {
			break
		}
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 400_000 {
		t.Errorf("%d bytes for five names", used)
	}
	n = 0
	for name, err := range NamesIn(root) {
		must(t, err)
		must(t, root.Remove(name))
		n++
	}
	if n != 3000 {
		t.Errorf("%d names", n)
	}
	must(t, root.Close())
	for _, err := range NamesIn(root) {
		if err == nil {
			t.Error("a closed directory has names")
		}
	}
}

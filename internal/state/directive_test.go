package state

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

func TestDropDirective(t *testing.T) {
	tree := newTree(t)
	for i, want := range []bool{true, false, false} {
		if got, err := tree.DropDirective("agent"); err != nil || got != want {
			t.Errorf("drop %d: %v, %v", i, got, err)
		}
	}
	if _, err := tree.DropDirective("other"); err != nil {
		t.Error(err)
	}
	// An existing entry is neither followed nor written.
	outside := filepath.Join(t.TempDir(), "outside")
	path := filepath.Join(tree.Run, "directive", "third", dropName)
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.Symlink(outside, path))
	if fresh, err := tree.DropDirective("third"); err != nil || fresh {
		t.Errorf("onto a link: %v, %v", fresh, err)
	}
	if _, err := os.Lstat(outside); !os.IsNotExist(err) {
		t.Errorf("the link was followed: %v", err)
	}
	for _, name := range []string{"agent", "other", "third"} {
		if n, err := tree.ConsumeDirectives(name); n != 1 || err != nil {
			t.Errorf("%s: %d entries, %v", name, n, err)
		}
	}
	if n, err := tree.ConsumeDirectives("nobody"); n != 0 || err != nil {
		t.Errorf("no directory: %d, %v", n, err)
	}
}

// TestConsumeDirectives checks that entries are removed without being read or followed.
func TestConsumeDirectives(t *testing.T) {
	tree := newTree(t)
	dir := filepath.Join(tree.Run, "directive", "agent")
	precious := filepath.Join(t.TempDir(), "precious")
	must(t, os.MkdirAll(precious, 0o755))
	must(t, os.WriteFile(precious+"/file", nil, 0o644))
	must(t, os.MkdirAll(dir, 0o755))
	at := func(name string) string { return dir + "/" + name }
	want := 0
	for _, name := range []string{"plain", ".hidden", "backup~", "x.new", "...", "a.", "-rf", " ", "a\nb", "\x1b[31m", "\xff\xfe", "*", "$(reboot)", strings.Repeat("n", 255)} {
		must(t, os.WriteFile(at(name), []byte("#!/bin/sh\nreboot\n"), 0o755))
		want++
	}
	must(t, os.MkdirAll(at("tree/a/b/c"), 0o755))
	must(t, os.WriteFile(at("tree/a/file"), nil, 0o644))
	must(t, os.Chmod(at("tree/a"), 0o500))
	must(t, os.Symlink(precious, at("link")))
	must(t, os.Symlink(precious, at("tree/link")))
	must(t, os.Symlink("nowhere", at("dangling")))
	must(t, unix.Mkfifo(at("fifo"), 0o644))
	// The link makes the path shorter: a socket's path has at most 108 bytes.
	short := filepath.Join("/tmp", fmt.Sprintf("mm-%d", os.Getpid()))
	must(t, os.Symlink(dir, short))
	defer os.Remove(short)
	l, err := net.Listen("unix", short+"/socket")
	must(t, err)
	defer l.Close()
	must(t, os.Chmod(dir, 0o755))
	want += 5
	if os.Geteuid() != 0 {
		must(t, os.Chmod(at("tree/a"), 0o700)) // a user needs write permission to remove the files, unlike root
	}
	n, err := tree.ConsumeDirectives("agent")
	if n != want || err != nil {
		t.Errorf("%d entries consumed, want %d: %v", n, want, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(precious + "/file"); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
}

// TestConsumeFlood has more entries than one batch.
func TestConsumeFlood(t *testing.T) {
	testkit.Slow(t)
	tree := newTree(t)
	dir := filepath.Join(tree.Run, "directive", "agent")
	must(t, os.MkdirAll(dir, 0o755))
	for i := range 2500 {
		must(t, os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o644))
	}
	if n, err := tree.ConsumeDirectives("agent"); n != 2500 || err != nil {
		t.Errorf("%d entries, %v", n, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestConsumeElsewhere checks that the target's directory cannot lead to another one.
func TestConsumeElsewhere(t *testing.T) {
	tree := newTree(t)
	precious := t.TempDir()
	must(t, os.WriteFile(precious+"/file", nil, 0o644))
	parent := filepath.Join(tree.Run, "directive")
	must(t, os.MkdirAll(parent, 0o755))
	must(t, os.Symlink(precious, parent+"/link"))
	must(t, unix.Mkfifo(parent+"/fifo", 0o644))
	for _, name := range []string{"link", "fifo", "..", "../request"} {
		if n, err := tree.ConsumeDirectives(name); n != 0 || err == nil {
			t.Errorf("%s: %d entries, %v", name, n, err)
		} else if !strings.HasPrefix(err.Error(), "cannot consume the directives to "+name+": ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(precious + "/file"); err != nil {
		t.Error(err)
	}
}

func TestTakeDirective(t *testing.T) {
	tree := newTree(t)
	if asked, err := tree.TakeDirective("agent"); asked || err != nil {
		t.Errorf("before: %v, %v", asked, err)
	}
	must(t, tree.AskByDirective("agent"))
	must(t, tree.AskByDirective("agent"))
	if asked, err := tree.TakeDirective("other"); asked || err != nil {
		t.Errorf("another target: %v, %v", asked, err)
	}
	for _, want := range []bool{true, false} {
		if asked, err := tree.TakeDirective("agent"); asked != want || err != nil {
			t.Errorf("%v, %v; want %v", asked, err, want)
		}
	}
}

package state

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// pending checks that Pending reports what the path unit sees: systemd's PathExists=
// follows the link.
func pending(t *testing.T, tree Tree, want bool) {
	t.Helper()
	if got, err := tree.Pending(RoleFetch, "agent"); err != nil || got != want {
		t.Errorf("pending: %v, %v; want %v", got, err, want)
	}
	if _, err := os.Stat(tree.Ready(RoleFetch, "agent") + "/.next.link"); (err == nil) != want {
		t.Errorf("systemd sees an entry: %v; want %v", err == nil, want)
	}
}

func TestSpool(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	tree := newTree(t)
	pending(t, tree, false)
	_, err := tree.openSpool(RoleFetch, "agent")
	wantError(t, err, "cannot open "+tree.Ready(RoleFetch, "agent"))
	producer, err := tree.makeSpool(RoleFetch, "agent")
	must(t, err)
	defer producer.Close()
	for range 2 { // the second stage replaces what a killed producer left
		entry, err := producer.stage("a1")
		must(t, err)
		must(t, entry.write("payload", []byte("bytes")))
		must(t, entry.Describe([]byte("{}"), nil, Receipt{Attempt: "a1", Platform: "linux-amd64", Files: []ReceiptFile{{"agent", "0"}}}))
		wantError(t, entry.write("payload", nil), "cannot write "+tree.Ready(RoleFetch, "agent")+"/.a1/payload: file exists")
		must(t, entry.Close())
	}
	pending(t, tree, false)
	must(t, producer.offer("a1"))
	pending(t, tree, true)
	ready := tree.Ready(RoleFetch, "agent")
	for path, mode := range map[string]os.FileMode{ready: os.ModeDir | 0o770, ready + "/a1": os.ModeDir | 0o770, ready + "/a1/payload": 0o640} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s is %v, want %v: its consumer has the group only", path, info.Mode(), mode)
		}
	}

	consumer, err := tree.openSpool(RoleFetch, "agent")
	must(t, err)
	defer consumer.Close()
	attempt, entry, err := consumer.claim()
	if err != nil || attempt != "a1" || entry == nil {
		t.Fatalf("claimed %q, %v", attempt, err)
	}
	defer entry.Close()
	pending(t, tree, false) // before any byte is read
	if got, err := entry.Read("payload", 5); err != nil || string(got) != "bytes" {
		t.Errorf("got %q, %v", got, err)
	}
	_, err = entry.Read("payload", 4)
	wantError(t, err, "cannot read payload", "larger than 4 bytes")
	if r, err := entry.Receipt(); err != nil || r.Attempt != "a1" || len(r.Files) != 1 || r.Files[0].Name != "0" {
		t.Errorf("receipt %+v, %v", r, err)
	}
	must(t, consumer.consume("a1"))
	must(t, consumer.consume("a1"))
	if left := names(t, ready); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if attempt, entry, err := consumer.claim(); attempt != "" || entry != nil || err != nil {
		t.Errorf("claimed %q of nothing, %v", attempt, err)
	}
	wantError(t, producer.offer("a9"), "cannot hand on a9")
}

// TestClaimHostile checks that a claim ends, follows no link, and leaves nothing visible,
// with anything that a producer may leave.
func TestClaimHostile(t *testing.T) {
	mkdir := func(name string) func(string) error {
		return func(ready string) error { return os.MkdirAll(filepath.Join(ready, name), 0o755) }
	}
	for name, c := range map[string]struct {
		plant []func(ready string) error
		want  AttemptID
		fails bool
	}{
		"the newest of several":   {plant: []func(string) error{mkdir("20260101t000000-1"), mkdir("20260102t000000-1"), mkdir("20251231t000000-1")}, want: "20260102t000000-1"},
		"debris":                  {plant: []func(string) error{mkdir(".a0/x"), mkdir("a1"), mkdir(".a1/left")}, want: "a1"},
		"names that are none":     {plant: []func(string) error{mkdir("A"), mkdir("a b"), mkdir("x.new"), mkdir("é\n")}},
		"a link out":              {plant: []func(string) error{func(r string) error { return os.Symlink("/etc", r+"/a1") }}, want: "a1", fails: true},
		"a link to nowhere":       {plant: []func(string) error{func(r string) error { return os.Symlink("none", r+"/a1") }}, want: "a1", fails: true},
		"a FIFO":                  {plant: []func(string) error{func(r string) error { return unix.Mkfifo(r+"/a1", 0o666) }}, want: "a1", fails: true},
		"a file":                  {plant: []func(string) error{func(r string) error { return os.WriteFile(r+"/a1", nil, 0o644) }}, want: "a1", fails: true},
		"nothing to be listed":    {plant: []func(string) error{mkdir("a1/sub"), func(r string) error { return os.Chmod(r+"/a1", 0) }}, want: "a1"},
		"a link for older debris": {plant: []func(string) error{mkdir("b1"), func(r string) error { return os.Symlink("../precious", r+"/a1") }}, want: "b1"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "nothing to be listed" {
				testkit.NeedRoot(t, "it may look anywhere, as the swapper may")
			}
			tree := newTree(t)
			ready := tree.Ready(RoleFetch, "agent")
			must(t, os.MkdirAll(filepath.Join(tree.Dir(RoleFetch, "agent"), "precious/x"), 0o755))
			must(t, os.Mkdir(ready, 0o770))
			for _, p := range c.plant {
				must(t, p(ready))
			}
			spool, err := tree.openSpool(RoleFetch, "agent")
			must(t, err)
			defer spool.Close()
			within(t, func() {
				attempt, entry, err := spool.claim()
				if attempt != c.want || (err != nil) != c.fails || (entry != nil) != (c.want != "" && !c.fails) {
					t.Errorf("claimed %q, %v, %v", attempt, entry != nil, err)
				}
				if entry != nil {
					must(t, entry.Close())
					must(t, spool.consume(attempt))
				}
			})
			if left := names(t, ready); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			if _, err := os.Stat(filepath.Join(tree.Dir(RoleFetch, "agent"), "precious/x")); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("ready is a link", func(t *testing.T) {
		tree := newTree(t)
		must(t, os.Symlink("/etc", tree.Ready(RoleFetch, "agent")))
		_, err := tree.makeSpool(RoleFetch, "agent")
		wantError(t, err, tree.Ready(RoleFetch, "agent"))
		_, err = tree.openSpool(RoleFetch, "agent")
		wantError(t, err, tree.Ready(RoleFetch, "agent"))
	})
	t.Run("ready is a FIFO", func(t *testing.T) {
		tree := newTree(t)
		must(t, unix.Mkfifo(tree.Ready(RoleFetch, "agent"), 0o666))
		within(t, func() {
			_, err := tree.openSpool(RoleFetch, "agent")
			wantError(t, err, tree.Ready(RoleFetch, "agent"))
		})
	})
}

// TestEntryHostile puts other things than files under the names that are read.
func TestEntryHostile(t *testing.T) {
	for name, plant := range map[string]func(path string) error{
		"a FIFO":      func(p string) error { return unix.Mkfifo(p, 0o666) },
		"a link out":  func(p string) error { return os.Symlink("/etc/passwd", p) },
		"a way out":   func(p string) error { return os.Symlink("../../secret", p) },
		"a directory": func(p string) error { return os.Mkdir(p, 0o755) },
		"a loop":      func(p string) error { return os.Symlink("receipt.json", p) },
		"zeroes":      func(p string) error { return os.WriteFile(p, make([]byte, 100), 0o644) },
		"too large":   func(p string) error { return os.WriteFile(p, make([]byte, maxFile+1), 0o644) },
		"nothing":     func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(dir+"/secret", []byte("{}"), 0o600))
			must(t, os.MkdirAll(dir+"/ready/entry", 0o755))
			must(t, plant(dir+"/ready/entry/receipt.json"))
			entry, err := os.OpenRoot(dir + "/ready/entry")
			must(t, err)
			defer entry.Close()
			within(t, func() {
				r, err := (&Bundle{Root: entry}).Receipt()
				wantError(t, err, "cannot read receipt.json")
				if fmt.Sprint(r) != fmt.Sprint(Receipt{}) {
					t.Errorf("receipt %+v", r)
				}
			})
		})
	}
}

// TestFullDisk: the error names the file on the disk that is full, and what helps.
func TestFullDisk(t *testing.T) {
	testkit.NeedRoot(t, "it mounts a small file system")
	tree := newTree(t)
	must(t, os.MkdirAll(tree.Dir(RoleVerify, "agent"), 0o755))
	must(t, unix.Mount("tmpfs", tree.Dir(RoleVerify, "agent"), "tmpfs", 0, "mode=755,size=64k"))
	t.Cleanup(func() { must(t, unix.Unmount(tree.Dir(RoleVerify, "agent"), unix.MNT_DETACH)) })
	err := tree.HandOn(RoleVerify, "agent", "a1", func(b *Bundle) error {
		if err := b.WriteFile("0", make([]byte, 64<<10), 0o640); err != nil {
			return err
		}
		return b.Describe(nil, nil, Receipt{Attempt: "a1"})
	})
	ready := tree.Ready(RoleVerify, "agent")
	want := "cannot write " + ready + "/.a1/receipt.json: no space left on device (hint: make room on the disk of " + ready + "; df and df -i show what is free)"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestNoRoomForLink: an entry that cannot be shown does not stay where a later attempt's
// consumer would find it.
func TestNoRoomForLink(t *testing.T) {
	testkit.NeedRoot(t, "it mounts a small file system")
	tree := newTree(t)
	must(t, os.MkdirAll(tree.Dir(RoleVerify, "agent"), 0o755))
	// For itself, the spool, the entry and its file.
	must(t, unix.Mount("tmpfs", tree.Dir(RoleVerify, "agent"), "tmpfs", 0, "mode=755,nr_inodes=4"))
	t.Cleanup(func() { must(t, unix.Unmount(tree.Dir(RoleVerify, "agent"), unix.MNT_DETACH)) })
	err := tree.HandOn(RoleVerify, "agent", "a1", func(b *Bundle) error { return b.WriteFile("0", nil, 0o640) })
	ready := tree.Ready(RoleVerify, "agent")
	want := "cannot hand on a1: no space left on device (hint: make room on the disk of " + ready + "; df and df -i show what is free)"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if left, err := os.ReadDir(ready); err != nil || len(left) > 0 {
		t.Errorf("%v stay: %v", left, err)
	}
}

package snapshot

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// acl is acl(5) in the kernel's form: version 2, then tag, permissions and id of
// user::rw-, user:1000:r--, group::r--, mask::r--, other::---.
const acl = "\x02\x00\x00\x00" +
	"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" +
	"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"

// odd are names that careless programs mishandle.
var odd = []string{"a\nb", "\xff\xfe", "-rf", " ", "…", "machinemon"}

// plant makes a tree with each kind of entry.
func plant(t testing.TB, dir string) {
	t.Helper()
	needRoot(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	put(t, at("data/file"), "content")
	put(t, at("data/empty"), "")
	put(t, at("data/private"), "secret")
	must(t, os.Chmod(at("data/private"), 0o400))
	put(t, at("data/theirs"), "of another user")
	must(t, os.Chown(at("data/theirs"), user, user+1))
	put(t, at("data/tool"), "#!/bin/sh\n")
	must(t, os.Chmod(at("data/tool"), 0o755|os.ModeSetuid|os.ModeSetgid))
	put(t, at("data/large"), string(make([]byte, 3<<20))+"the end")
	must(t, os.Link(at("data/file"), at("data/hard")))
	must(t, os.Mkdir(at("data/shared"), 0o755))
	must(t, os.Chown(at("data/shared"), 0, user))
	must(t, os.Chmod(at("data/shared"), 0o750|os.ModeSetgid|os.ModeSticky))
	put(t, at("data/shared/below"), "x")
	must(t, os.Mkdir(at("data/nothing"), 0o700))
	must(t, os.Symlink("file", at("data/link")))
	must(t, os.Symlink("/etc/shadow", at("data/out")))
	must(t, os.Symlink("none", at("data/dangling")))
	must(t, os.Lchown(at("data/dangling"), user, user))
	put(t, at("data/a/b/c/d/deep"), "deep")
	for _, name := range odd {
		put(t, at("data/odd/"+name), name)
	}
	must(t, unix.Setxattr(at("data/file"), "user.note", []byte("v\x00w"), 0))
	must(t, unix.Setxattr(at("data/a"), "user.note", nil, 0))
	must(t, unix.Setxattr(at("data/private"), "system.posix_acl_access", []byte(acl), 0))
	must(t, unix.Setxattr(at("data/a/b"), "system.posix_acl_default", []byte(acl), 0))
	must(t, unix.Mkfifo(at("data/fifo"), 0o600))
	listen(t, at("data/socket"))
	for _, name := range []string{"data/file", "data/a/b/c", "data/link", "data/nothing", "data"} {
		old := []unix.Timespec{{}, {Sec: 1e9, Nsec: 123456789}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at(name), old, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// listen leaves a socket behind, as a killed daemon does.
func listen(t testing.TB, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
}

// TestSave: a backup has everything of the original except sockets and FIFOs.
func TestSave(t *testing.T) {
	everywhere(t, func(t *testing.T, dir string) {
		plant(t, dir)
		data, backup := dir+"/data", dir+"/backup"
		before := describe(t, data)
		sum := save(t, data, backup)
		equal(t, "backup", describe(t, backup), before)
		equal(t, "original", describe(t, data), before)
		for _, place := range []string{data, backup} {
			measured, err := Measure(place)
			must(t, err)
			if measured.String() != sum.String() {
				t.Errorf("%s: %s, saved were %s", place, measured, sum)
			}
		}
		if want := fmt.Sprintf("%d entries, ", len(before)); sum.Entries != int64(len(before)) {
			t.Errorf("saved were %s, want %s", sum, want)
		}
		// A backup into an existing empty directory works as well.
		must(t, os.Mkdir(dir+"/empty", 0o700))
		save(t, data, dir+"/empty")
		equal(t, "backup in an empty directory", describe(t, dir+"/empty"), before)
	})
}

// harm is what a new version may do to its data.
var harm = map[string]func(t *testing.T, at func(string) string){
	"nothing":  func(*testing.T, func(string) string) {},
	"new file": func(t *testing.T, at func(string) string) { put(t, at("new/a/b"), "x") },
	"new kinds": func(t *testing.T, at func(string) string) {
		must(t, unix.Mkfifo(at("a/pipe"), 0o600))
		listen(t, at("a/sock"))
		must(t, os.Symlink("/etc", at("a/etc")))
		must(t, unix.Mknod(at("a/null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	},
	"removed": func(t *testing.T, at func(string) string) {
		must(t, os.RemoveAll(at("a")))
		must(t, os.RemoveAll(at("odd")))
		must(t, os.Remove(at("link")))
		must(t, os.Remove(at("empty")))
	},
	"all removed":   func(t *testing.T, at func(string) string) { must(t, os.RemoveAll(at(""))) },
	"file in place": func(t *testing.T, at func(string) string) { must(t, os.RemoveAll(at(""))); put(t, at(""), "x") },
	"changed": func(t *testing.T, at func(string) string) {
		put(t, at("large"), string(make([]byte, 3<<20))+"the And")
		must(t, os.Chtimes(at("large"), time.Time{}, time.Unix(1e9, 123456789)))
		put(t, at("theirs"), "longer than what was there before")
		put(t, at("empty"), "not empty")
		must(t, os.Truncate(at("a/b/c/d/deep"), 0))
	},
	"mode": func(t *testing.T, at func(string) string) {
		for _, name := range []string{"", "file", "shared", "tool", "nothing"} {
			must(t, os.Chmod(at(name), 0o777))
		}
		must(t, os.Chmod(at("a"), 0))
	},
	"owner": func(t *testing.T, at func(string) string) {
		for _, name := range []string{"", "file", "theirs", "link", "dangling", "a", "a/b", "shared"} {
			must(t, os.Lchown(at(name), 77, 88))
		}
	},
	"attributes": func(t *testing.T, at func(string) string) {
		must(t, unix.Setxattr(at("file"), "user.note", []byte("changed"), 0))
		must(t, unix.Setxattr(at("empty"), "user.new", []byte("new"), 0))
		must(t, unix.Removexattr(at("a"), "user.note"))
		must(t, unix.Setxattr(at("a"), "user.other", nil, 0))
		must(t, unix.Removexattr(at("private"), "system.posix_acl_access"))
		must(t, unix.Removexattr(at("a/b"), "system.posix_acl_default"))
		must(t, unix.Setxattr(at("nothing"), "system.posix_acl_access", []byte(acl), 0))
		must(t, unix.Setxattr(at("shared"), "system.posix_acl_default", []byte(acl), 0))
		capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service=ep
		must(t, unix.Setxattr(at("tool"), "security.capability", []byte(capability), 0))
	},
	"kinds exchanged": func(t *testing.T, at func(string) string) {
		exchange := func(name string, make func(path string)) {
			must(t, os.RemoveAll(at(name)))
			make(at(name))
		}
		exchange("file", func(p string) { must(t, unix.Mkfifo(p, 0o600)) })
		exchange("empty", func(p string) { must(t, os.Symlink("/etc/shadow", p)) })
		exchange("private", func(p string) { put(t, p+"/in/it", "x") })
		exchange("a", func(p string) { must(t, os.Symlink("/etc", p)) })
		exchange("shared", func(p string) { listen(t, p) })
		exchange("nothing", func(p string) { put(t, p, "x") })
		exchange("link", func(p string) { put(t, p+"/x", "x") })
		exchange("out", func(p string) { must(t, os.Symlink("/etc/passwd", p)) })
		exchange("dangling", func(p string) { put(t, p, "x") })
	},
	"leftovers": func(t *testing.T, at func(string) string) {
		put(t, at(leftover+"0123456789abcdef"), "half of it")
		put(t, at("a/"+leftover+"0123456789abcdef"), "half of it")
	},
}

// TestRestore: changes to the data are undone, and unchanged files are not written.
func TestRestore(t *testing.T) {
	testkit.Slow(t)
	everywhere(t, func(t *testing.T, dir string) {
		for name, do := range harm {
			t.Run(name, func(t *testing.T) {
				dir := filepath.Join(dir, "of "+name)
				plant(t, dir)
				data, backup := dir+"/data", dir+"/backup"
				want := describe(t, data)
				save(t, data, backup)
				kept := stamps(t, backup)
				do(t, func(name string) string { return filepath.Join(data, name) })
				there := map[string]bool{} // not removed, since a program may still use them
				for _, name := range []string{"fifo", "socket"} {
					_, err := os.Lstat(filepath.Join(data, name))
					there[name] = err == nil
				}
				restore(t, backup, data, name != "nothing")
				equal(t, "restored", describe(t, data), want)
				after := stamps(t, data)
				for _, name := range []string{"fifo", "socket"} {
					if _, err := os.Lstat(filepath.Join(data, name)); (err == nil) != there[name] {
						t.Errorf("the %s was there before: %v, after: %v", name, there[name], err)
					}
				}
				restore(t, backup, data, false)
				for path, stamp := range stamps(t, data) {
					if stamp != after[path] {
						t.Errorf("%q was written again", path)
					}
				}
				for path, stamp := range stamps(t, backup) {
					if stamp != kept[path] {
						t.Errorf("%q of the backup was written", path)
					}
				}
			})
		}
	})
}

// TestUntouched: in a directory with one changed file, only that file is written.
func TestUntouched(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir)
	save(t, dir+"/data", dir+"/backup")
	before := stamps(t, dir+"/data")
	put(t, dir+"/data/a/b/c/d/deep", "changed")
	restore(t, dir+"/backup", dir+"/data", true)
	after := stamps(t, dir+"/data")
	for path, stamp := range before {
		d := filepath.Base(path) == "d" || filepath.Base(path) == "deep"
		if now, there := after[path]; there && now != stamp && !d {
			t.Errorf("%q was written", path)
		}
	}
}

// TestFile: a single file is replaced as a whole, and the rest of a killed run beside it
// is removed.
func TestFile(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	file, backup := dir+"/config", dir+"/backup"
	put(t, file, "old")
	must(t, os.Chown(file, user, user))
	must(t, os.Chmod(file, 0o600))
	want := describe(t, file)
	if sum := save(t, file, backup); sum.String() != "1 entries, 3 bytes" {
		t.Errorf("got %s", sum)
	}
	for name, do := range map[string]func(){
		"changed":   func() { put(t, file, "new") },
		"gone":      func() { must(t, os.Remove(file)) },
		"directory": func() { must(t, os.Remove(file)); put(t, file+"/x", "x") },
		"symlink":   func() { must(t, os.Remove(file)); must(t, os.Symlink("/etc/shadow", file)) },
		"fifo":      func() { must(t, os.Remove(file)); must(t, unix.Mkfifo(file, 0o644)) },
	} {
		do()
		p, err := top(file)
		must(t, err)
		put(t, p.temporary().path, "half of it")
		must(t, p.dir.Close())
		restore(t, backup, file, true)
		equal(t, name, describe(t, file), want)
		restore(t, backup, file, false)
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
			t.Errorf("%s: %v %v are in the directory", name, entries, err)
		}
	}
}

// TestRemove: a path that did not exist is removed again.
func TestRemove(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir)
	for _, name := range []string{"data/file", "data/fifo", "data/socket", "data/link", "data/a", "data"} {
		if changed, err := Remove(filepath.Join(dir, name)); err != nil || !changed {
			t.Errorf("%s: %v %v", name, changed, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"data", "data/none/below"} {
		if changed, err := Remove(filepath.Join(dir, name)); err != nil || changed {
			t.Errorf("%s: %v %v", name, changed, err)
		}
	}
}

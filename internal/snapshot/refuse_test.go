package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestRefused: the error names what cannot be saved, and no part of the backup remains.
func TestRefused(t *testing.T) {
	testkit.Slow(t)
	needRoot(t)
	mount := func(t *testing.T, at string) {
		must(t, os.MkdirAll(at, 0o755))
		must(t, unix.Mount("none", at, "tmpfs", 0, ""))
		t.Cleanup(func() { unmount(t, at) })
	}
	for name, row := range map[string]struct {
		plant func(t *testing.T, data string)
		want  string
		limit int64
	}{
		"device": {plant: func(t *testing.T, data string) {
			must(t, unix.Mknod(data+"/a/null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		}, want: "/a/null: is a device"},
		"mount":      {plant: func(t *testing.T, data string) { mount(t, data+"/a/m") }, want: "/a/m: is a mount point (hint: "},
		"bind mount": {plant: func(t *testing.T, data string) { bind(t, data+"/a/b", data+"/nothing") }, want: "/nothing: is a mount point"},
		"file mount": {plant: func(t *testing.T, data string) { bind(t, data+"/file", data+"/empty") }, want: "/empty: is a mount point"},
		"directory of a user": {plant: func(t *testing.T, data string) { must(t, os.Chown(data+"/a/b", user, 0)) },
			want: "/a/b: is owned by user 1234 in a tree that root saves (hint: "},
		"writable directory": {plant: func(t *testing.T, data string) { must(t, os.Chmod(data+"/a/b", 0o775)) },
			want: "/a/b: is writable by others than root"},
		"directory with an ACL": {plant: func(t *testing.T, data string) {
			writable := strings.Replace(acl, "\x02\x00\x04", "\x02\x00\x06", 1)
			writable = strings.Replace(writable, "\x10\x00\x04", "\x10\x00\x06", 1)
			must(t, unix.Setxattr(data+"/a/b", "system.posix_acl_access", []byte(writable), 0))
		}, want: "/a/b: is writable by others than root"},
		"the directory itself": {plant: func(t *testing.T, data string) { must(t, os.Chown(data, user, 0)) }, want: "/data: is owned by user 1234"},
		"capabilities": {plant: func(t *testing.T, data string) {
			capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service=ep
			must(t, unix.Setxattr(data+"/file", "security.capability", []byte(capability), 0))
		}, want: "/file: has file capabilities"},
		"limit": {plant: func(t *testing.T, data string) { random(t, data+"/a/z", 1<<20) }, limit: 1 << 20, want: "/a/z: with it there are more than 1048576 bytes to save (hint: raise"},
		"depth": {plant: func(t *testing.T, data string) {
			must(t, os.MkdirAll(data+strings.Repeat("/d", maxDepth+1), 0o755))
		}, want: "/d: is nested more than 200 directories deep"},
		"symlink":       {plant: func(t *testing.T, data string) { exchange(t, data, func() { must(t, os.Symlink("/etc", data)) }) }, want: "/data: is a symbolic link (hint: "},
		"FIFO":          {plant: func(t *testing.T, data string) { exchange(t, data, func() { must(t, unix.Mkfifo(data, 0o600)) }) }, want: "/data: is a socket or FIFO"},
		"nothing there": {plant: func(t *testing.T, data string) { exchange(t, data, func() {}) }, want: "/data: no such file or directory"},
		"parent by symlink": {plant: func(t *testing.T, data string) {
			must(t, os.Rename(filepath.Dir(data), filepath.Dir(data)+"2"))
			must(t, os.Symlink(filepath.Base(filepath.Dir(data))+"2", filepath.Dir(data)))
		}, want: "is reached by a symbolic link, which root does not follow"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			plant(t, dir+"/in")
			row.plant(t, dir+"/in/data")
			if row.limit == 0 {
				row.limit = 1 << 40
			}
			_, err := Save(dir+"/in/data", dir+"/backup", row.limit)
			refused(t, err, row.want)
			if errors.Is(err, fs.ErrNotExist) != (name == "nothing there") {
				t.Errorf("does not say whether it exists: %v", err)
			}
			if _, err := os.Lstat(dir + "/backup"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a part of it is left: %v", err)
			}
			must(t, os.Mkdir(dir+"/empty", 0o700))
			_, err = Save(dir+"/in/data", dir+"/empty", row.limit)
			refused(t, err, row.want)
			if left, err := os.ReadDir(dir + "/empty"); err != nil || len(left) > 0 {
				t.Errorf("%v is left in the directory, %v", left, err)
			}
		})
	}
}

func exchange(t *testing.T, path string, put func()) {
	t.Helper()
	must(t, os.RemoveAll(path))
	put()
}

// TestOccupied: content at the place of a backup is neither overwritten nor removed.
func TestOccupied(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	plant(t, dir)
	put(t, dir+"/full/x", "x")
	put(t, dir+"/file", "x")
	must(t, os.Symlink("full", dir+"/link"))
	before := describe(t, dir)
	for _, src := range []string{"data", "data/file"} {
		for _, dst := range []string{"full", "file", "link"} {
			_, err := Save(dir+"/"+src, dir+"/"+dst, 1<<40)
			refused(t, err, "the place of the backup is occupied")
		}
	}
	equal(t, "occupied", describe(t, dir), before)
}

// TestEntries: a tree may have at most MaxEntries entries.
func TestEntries(t *testing.T) {
	sum := Summary{Entries: MaxEntries - 1}
	must(t, sum.add(&unix.Stat_t{}))
	refused(t, sum.add(&unix.Stat_t{}), "more than 1000000 files")
}

// TestPaths: a path must be absolute and clean.
func TestPaths(t *testing.T) {
	for _, path := range []string{"", "/", "x", "/tmp/", "/tmp/../etc", "//tmp", "/tmp//x"} {
		_, err := Measure(path)
		refused(t, err, "it is no absolute path of a file or directory")
	}
	_, err := Measure("/none")
	refused(t, err, "cannot measure /none: no such file or directory")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("it does not say that nothing is there")
	}
}

// TestHostile: another user has taken over a part of the tree since it was saved. Root
// follows none of that user's links, takes the entries away from that user, and changes
// no file elsewhere.
func TestHostile(t *testing.T) {
	testkit.Slow(t)
	needRoot(t)
	for name, do := range map[string]func(t *testing.T, data, outside string){
		"symlink for a directory": func(t *testing.T, data, outside string) {
			exchange(t, data+"/a", func() { must(t, os.Symlink(outside, data+"/a")) })
		},
		"symlink for a file": func(t *testing.T, data, outside string) {
			exchange(t, data+"/file", func() { must(t, os.Symlink(outside+"/victim", data+"/file")) })
		},
		"symlink for the directory": func(t *testing.T, data, outside string) {
			exchange(t, data, func() { must(t, os.Symlink(outside, data)) })
		},
		"new symlink": func(t *testing.T, data, outside string) { must(t, os.Symlink(outside, data+"/a/new")) },
		"hard link": func(t *testing.T, data, outside string) {
			exchange(t, data+"/file", func() { must(t, os.Link(outside+"/victim", data+"/file")) })
			must(t, os.Link(outside+"/victim", data+"/a/new"))
		},
		// Only the owner differs from the backup: setting the old owner would be fatal.
		"hard link with the old content": func(t *testing.T, data, outside string) {
			put(t, outside+"/same", "of another user")
			exchange(t, data+"/theirs", func() { must(t, os.Link(outside+"/same", data+"/theirs")) })
		},
		"FIFO": func(t *testing.T, data, outside string) {
			exchange(t, data+"/file", func() { must(t, unix.Mkfifo(data+"/file", 0o666)) })
		},
		"directory of a user": func(t *testing.T, data, outside string) {
			must(t, os.Chown(data+"/a/b", user, user))
			must(t, os.Chmod(data+"/a/b", 0o777))
			must(t, os.Symlink(outside, data+"/a/b/new"))
			must(t, os.Chown(data, user, user))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			plant(t, dir)
			put(t, dir+"/outside/victim", "content")
			put(t, dir+"/outside/deep", "content")
			want := describe(t, dir+"/data")
			save(t, dir+"/data", dir+"/backup")
			do(t, dir+"/data", dir+"/outside")
			outside := describe(t, dir+"/outside")
			restore(t, dir+"/backup", dir+"/data", true)
			equal(t, "restored", describe(t, dir+"/data"), want)
			equal(t, "elsewhere", describe(t, dir+"/outside"), outside)
		})
	}
}

// TestTakeOver: before root works in a directory, no other user can write in it any more,
// also not by an ACL.
func TestTakeOver(t *testing.T) {
	needRoot(t)
	dir := t.TempDir() + "/theirs"
	must(t, os.Mkdir(dir, 0o755))
	writable := strings.NewReplacer("\x02\x00\x04", "\x02\x00\x06", "\x10\x00\x04", "\x10\x00\x06").Replace(acl)
	must(t, unix.Setxattr(dir, "system.posix_acl_access", []byte(writable), 0))
	must(t, os.Chown(dir, user, user))
	must(t, os.Chmod(dir, 0o777))
	p, err := top(dir)
	must(t, err)
	defer p.dir.Close()
	was, d, err := newRestorer().takeOver(p)
	must(t, err)
	defer d.Close()
	if was.st.Uid != user || was.st.Mode&0o777 != 0o777 {
		t.Errorf("it was of user %d with the mode %o", was.st.Uid, was.st.Mode)
	}
	now, err := fstat(d.File)
	must(t, err)
	if err := ownTree(&now); err != nil {
		t.Error(err)
	}
}

// TestRestoreRefused: a restore stops at a mount point, and root uses no backup that
// another user could have written.
func TestRestoreRefused(t *testing.T) {
	testkit.Slow(t)
	needRoot(t)
	for name, row := range map[string]struct {
		do   func(t *testing.T, dir string)
		want string
	}{
		"mount in place of a directory": {func(t *testing.T, dir string) { bind(t, dir+"/mounted", dir+"/data/nothing") }, "/data/nothing: is a mount point"},
		"mount in place of a file":      {func(t *testing.T, dir string) { bind(t, dir+"/mounted/file", dir+"/data/empty") }, "/data/empty: is a mount point"},
		"new mount": {func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir+"/data/a/new", 0o755))
			bind(t, dir+"/mounted", dir+"/data/a/new")
		}, "/data/a/new: is a mount point"},
		"mount in a new directory": {func(t *testing.T, dir string) {
			put(t, dir+"/data/new/file", "")
			bind(t, dir+"/mounted/file", dir+"/data/new/file")
		}, "/data/new/file: is a mount point"},
		"mount in place of what is restored": {func(t *testing.T, dir string) {
			must(t, os.RemoveAll(dir+"/backup"))
			save(t, dir+"/data/file", dir+"/backup")
			bind(t, dir+"/mounted", dir+"/data")
		}, "/data: is a mount point"},
		"backup of a user":   {func(t *testing.T, dir string) { must(t, os.Chown(dir+"/backup", user, user)) }, "/backup: is owned by user 1234"},
		"device in a backup": {func(t *testing.T, dir string) { must(t, unix.Mknod(dir+"/backup/x", unix.S_IFCHR, 259)) }, "/backup/x: is no part of a backup"},
		"no backup":          {func(t *testing.T, dir string) { must(t, os.RemoveAll(dir+"/backup")) }, "/backup: no such file or directory"},
		"symlink as a backup": {func(t *testing.T, dir string) {
			must(t, os.RemoveAll(dir+"/backup"))
			must(t, os.Symlink("data", dir+"/backup"))
		}, "/backup: is a symbolic link"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			plant(t, dir)
			put(t, dir+"/mounted/file", "x")
			save(t, dir+"/data", dir+"/backup")
			row.do(t, dir)
			before := describe(t, dir+"/mounted")
			_, err := Restore(dir+"/backup", dir+"/data")
			refused(t, err, "cannot restore "+dir+"/data: ")
			refused(t, err, row.want)
			if after := describe(t, dir+"/mounted"); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("changed from %v to %v", before, after)
			}
		})
	}
	dir := t.TempDir()
	plant(t, dir)
	bind(t, dir+"/data/odd", dir+"/data/nothing")
	_, err := Remove(dir + "/data/nothing")
	refused(t, err, "cannot remove "+dir+"/data/nothing: ")
	refused(t, err, "is a mount point")
	if n := len(describe(t, dir+"/data/odd")); n != len(odd)+1 {
		t.Errorf("%d entries are left of what was mounted", n)
	}
}

// TestMountPoint: the given path may be a mount point.
func TestMountPoint(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	plant(t, dir+"/elsewhere")
	must(t, os.Mkdir(dir+"/data", 0o755))
	bind(t, dir+"/elsewhere/data", dir+"/data")
	must(t, os.Mkdir(dir+"/backup", 0o700))
	must(t, os.Mkdir(dir+"/bound", 0o700))
	bind(t, dir+"/bound", dir+"/backup")
	want := describe(t, dir+"/data")
	save(t, dir+"/data", dir+"/backup")
	put(t, dir+"/data/a/new", "x")
	restore(t, dir+"/backup", dir+"/data", true)
	equal(t, "restored", describe(t, dir+"/elsewhere/data"), want)
}

// TestLeased: a process that the stop of the unit does not end holds a lease on a file. Its
// content cannot be compared, and comes back all the same.
func TestLeased(t *testing.T) {
	dir := t.TempDir()
	data, backup := dir+"/data", dir+"/backup"
	put(t, data+"/file", "before")
	save(t, data, backup)
	put(t, data+"/file", "after.")
	f, err := os.Open(data + "/file")
	must(t, err)
	defer f.Close()
	signal.Ignore(unix.SIGIO) // by which the kernel asks for the end of the lease
	defer signal.Reset(unix.SIGIO)
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	must(t, err)
	if _, err = Save(data, dir+"/second", 1<<40); err == nil || !strings.Contains(err.Error(), "data/file: a program holds a lease on it (hint: ") {
		t.Errorf("Save returned %v", err)
	}
	restore(t, backup, data, true)
	got, err := os.ReadFile(data + "/file")
	must(t, err)
	if string(got) != "before" {
		t.Errorf("the file has %q", got)
	}
}

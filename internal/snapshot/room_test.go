package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// small mounts a file system of so many bytes in memory.
func small(t testing.TB, size int) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // for the user
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("mode=755,size=%d", size)))
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// fillUp uses up the space of a directory's file system.
func fillUp(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Create(dir + "/ballast")
	must(t, err)
	defer f.Close()
	for err = nil; err == nil; {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// TestReserve: on a full disk Restore succeeds with the space that was reserved, and only
// with it. The backup is on the disk of the data or on another, and the data are of root
// or of another user.
func TestReserve(t *testing.T) {
	testkit.Slow(t)
	needRoot(t)
	for _, uid := range []uint32{0, user} {
		for _, elsewhere := range []bool{false, true} {
			for _, kind := range []string{"file", "directory"} {
				for _, reserved := range []bool{true, false} {
					t.Run(fmt.Sprintf("%s of user %d, elsewhere %v, reserved %v", kind, uid, elsewhere, reserved), func(t *testing.T) {
						disk := small(t, 4<<20)
						home, backups := disk+"/home", disk+"/backups"
						if elsewhere {
							backups = small(t, 4<<20) + "/backups"
						}
						path, backup := home+"/data", backups+"/0"
						files := []string{path}
						if kind == "directory" {
							files = []string{path + "/a", path + "/sub/b"}
						}
						for _, f := range files {
							put(t, f, strings.Repeat("old", 100_000))
						}
						must(t, os.Mkdir(backups, 0o700))
						must(t, filepath.WalkDir(disk, func(p string, _ os.DirEntry, err error) error {
							return errors.Join(err, os.Lchown(p, int(uid), int(uid)))
						}))
						must(t, os.Chown(backups, int(uid), int(uid)))
						must(t, os.Chmod(filepath.Dir(backups), 0o755))
						verb := func(args ...string) error {
							_, err := as(t, uid, args...)
							return err
						}
						want := describe(t, path)
						must(t, verb("snapshot-save", "10000000", path, backup))
						if reserved {
							must(t, verb("snapshot-reserve", backup, path))
							must(t, verb("snapshot-reserve", backup, path)) // as after a kill
							if sum, err := Save(path, t.TempDir()+"/again", 1<<30); err == nil && sum.String() != mustMeasure(t, backup).String() {
								t.Errorf("the room is taken for data: %v", sum)
							}
						}
						for _, f := range files {
							must(t, os.Remove(f))
						}
						fillUp(t, disk)
						err := verb("snapshot-restore", backup, path)
						if !reserved {
							refused(t, err, "no space left on device")
							return
						}
						must(t, err)
						equal(t, "restored", describe(t, path), want)
						if left, _ := filepath.Glob(disk + "/*/*room*"); len(left) > 0 {
							t.Errorf("left over: %q", left)
						}
						if left, _ := filepath.Glob(home + "/.*"); len(left) > 0 {
							t.Errorf("left over: %q", left)
						}
					})
				}
			}
		}
	}
}

func mustMeasure(t *testing.T, path string) Summary {
	t.Helper()
	sum, err := Measure(path)
	must(t, err)
	return sum
}

// TestReserveRefused: an error names the file system and the bytes, and leaves nothing.
func TestReserveRefused(t *testing.T) {
	disk, backups := small(t, 2<<20), t.TempDir()
	put(t, disk+"/data/a", strings.Repeat("x", 1<<20))
	save(t, disk+"/data", backups+"/0")
	fillUp(t, disk)
	err := Reserve(backups+"/0", disk+"/data")
	refused(t, err, "cannot reserve the space to restore "+disk+"/data: ")
	refused(t, err, fmt.Sprintf("a rollback needs %d bytes on the file system mounted on %s, and 0 are free: no space left", 1<<20+2*EntrySize, disk))
	if !durable.Full(err) {
		t.Errorf("it is no lack of space: %v", err)
	}
	if left, _ := filepath.Glob(disk + "/data/.*"); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

// TestReserveShared: where blocks can be shared, the room holds no content.
func TestReserveShared(t *testing.T) {
	everywhere(t, func(t *testing.T, dir string) {
		plant(t, dir)
		put(t, dir+"/data/large", strings.Repeat("x", 16<<20))
		save(t, dir+"/data", dir+"/backup")
		must(t, Reserve(dir+"/backup", dir+"/data"))
		info, err := os.Stat(dir + "/backup.room")
		must(t, err)
		kind := filepath.Base(t.Name())
		if shared := kind == "xfs" || kind == "btrfs"; shared != (info.Size() < 16<<20) && kind != "here" {
			t.Errorf("the room has %d bytes", info.Size())
		}
		must(t, Release(dir+"/backup", dir+"/data"))
		if _, err := os.Stat(dir + "/backup.room"); !os.IsNotExist(err) {
			t.Errorf("it is still there: %v", err)
		}
		must(t, Release("", dir+"/nothing/data"))
	})
}

// TestRestoreRest: an entry that cannot be restored does not keep the others from it.
func TestRestoreRest(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	put(t, dir+"/data/z", "old")
	put(t, dir+"/data/a/file", "old")
	put(t, dir+"/data/m", "old")
	put(t, dir+"/mounted/x", "x")
	save(t, dir+"/data", dir+"/backup")
	put(t, dir+"/data/z", "new")
	put(t, dir+"/data/a/file", "new")
	put(t, dir+"/data/added/b", "new")
	put(t, dir+"/data/added/c", "new")
	bind(t, dir+"/mounted/x", dir+"/data/m")
	bind(t, dir+"/mounted/x", dir+"/data/added/b")
	_, err := Restore(dir+"/backup", dir+"/data")
	refused(t, err, "is a mount point")
	refused(t, err, "(and 1 more)")
	for _, name := range []string{"z", "a/file"} {
		if got, err := os.ReadFile(dir + "/data/" + name); err != nil || string(got) != "old" {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
	if _, err := os.Stat(dir + "/data/added/c"); !os.IsNotExist(err) {
		t.Error("a file beside the mount point was not removed")
	}
}

// TestRestoreDatabase: the files that SQLite keeps beside a database stay if the database
// cannot be restored, and other paths are restored.
func TestRestoreDatabase(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	put(t, dir+"/db-wal", "new")
	put(t, dir+"/db", "new")
	put(t, dir+"/config", "old")
	save(t, dir+"/config", dir+"/1")
	put(t, dir+"/config", "new")
	if _, err := as(t, 0, "snapshot-restore", dir+"/nothing", dir+"/db", "-", dir+"/db-wal", dir+"/1", dir+"/config"); err == nil {
		t.Error("no error")
	}
	for name, want := range map[string]string{"db": "new", "db-wal": "new", "config": "old"} {
		if got, err := os.ReadFile(dir + "/" + name); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
}

// TestMark: a mark differs after each write, also one that restores size and time.
func TestMark(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	plant(t, dir)
	path := dir + "/data"
	last, err := Mark(path)
	must(t, err)
	for _, c := range []struct {
		name  string
		write func()
	}{
		{"content", func() {
			info, err := os.Stat(path + "/file")
			must(t, err)
			f, err := os.OpenFile(path+"/file", os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("?"), 0)
			must(t, errors.Join(err, f.Close(), os.Chtimes(path+"/file", info.ModTime(), info.ModTime())))
		}},
		{"name", func() { must(t, os.Rename(path+"/file", path+"/elif")) }},
		{"whole", func() { must(t, os.RemoveAll(path)) }},
	} {
		c.write()
		now, err := Mark(path)
		must(t, err)
		if now == last {
			t.Errorf("after a change of the %s it is the same", c.name)
		}
		if again, err := Mark(path); err != nil || again != now {
			t.Errorf("it is not the same twice: %v", err)
		}
		last = now
	}
}

package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWriteFile(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	for _, mode := range []fs.FileMode{0o644, 0o600, 0o640} {
		must(t, WriteFile(path, []byte(mode.String()), mode))
		info, err := os.Stat(path)
		must(t, err)
		got, err := os.ReadFile(path)
		if err != nil || info.Mode() != mode || string(got) != mode.String() {
			t.Errorf("got %v %q %v, want %v", info.Mode(), got, err, mode)
		}
	}
	// A symbolic link at the path is replaced, not followed.
	must(t, os.Remove(path))
	must(t, os.WriteFile(dir+"/precious", []byte("p"), 0o600))
	must(t, os.Symlink("precious", path))
	must(t, WriteFile(path, []byte("new"), 0o644))
	if got, err := os.ReadFile(dir + "/precious"); err != nil || string(got) != "p" {
		t.Errorf("a link was written through: %q, %v", got, err)
	}
	// A reader that has the old file open keeps it, so it never sees half a file.
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	must(t, WriteFile(path, []byte("newer"), 0o644))
	if got, err := io.ReadAll(f); err != nil || string(got) != "new" {
		t.Errorf("the open file has become %q, %v", got, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := WriteFile(dir+"/none/x", nil, 0o644); err == nil || err.Error() != "cannot write "+dir+"/none/x: no such file or directory" {
		t.Error(err)
	}
}

// TestOpen checks that only a regular file is opened, that nothing blocks, and that
// [Cause] strips the path from every error.
// TestReserve: a file occupies the space also where nothing can be allocated in advance,
// such as on a ramfs.
func TestReserve(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it mounts file systems")
	}
	for _, kind := range []string{"tmpfs", "ramfs"} {
		dir := t.TempDir()
		must(t, unix.Mount(kind, dir, kind, 0, ""))
		t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
		f, err := os.Create(dir + "/room")
		must(t, err)
		must(t, Reserve(f, 1<<20))
		info, err := f.Stat()
		must(t, errors.Join(err, f.Close()))
		if got := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() != 1<<20 || got != 1<<20 {
			t.Errorf("%s: the file has %d bytes and occupies %d", kind, info.Size(), got)
		}
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	must(t, os.WriteFile(dir+"/file", []byte("abc"), 0o600))
	must(t, os.Symlink("file", dir+"/link"))
	must(t, os.Symlink("/etc/passwd", dir+"/out"))
	must(t, os.Mkdir(dir+"/dir", 0o700))
	must(t, unix.Mkfifo(dir+"/fifo", 0o600))
	for _, row := range []struct {
		name, byPath, below, asDir string
	}{
		{name: "file", asDir: "not a directory"},
		{"link", ErrSymlink.Error(), "", "not a directory"},
		{"out", ErrSymlink.Error(), "path escapes from parent", "path escapes from parent"},
		{"dir", ErrNotRegular.Error(), ErrNotRegular.Error(), ""},
		{"fifo", ErrNotRegular.Error(), ErrNotRegular.Error(), "not a directory"},
		{"none", "no such file or directory", "no such file or directory", "no such file or directory"},
	} {
		got := func(how string, c io.Closer, err error, want string) {
			if err == nil {
				c.Close()
			}
			if want == "" && err != nil || want != "" && (err == nil || Cause(err).Error() != want || !strings.Contains(err.Error(), row.name)) {
				t.Errorf("%s %s: %v, want %q", row.name, how, err, want)
			}
		}
		f, err := OpenRegular(filepath.Join(dir, row.name))
		got("by path", f, err, row.byPath)
		f, err = OpenRegularIn(root, row.name)
		got("below root", f, err, row.below)
		d, err := OpenDirIn(root, row.name)
		got("as a directory", d, err, row.asDir)
	}
	if sum, err := FileSHA256(dir + "/file"); err != nil || sum != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Error(sum, err)
	}
	if b, err := ReadFile(dir+"/file", 3); err != nil || string(b) != "abc" {
		t.Error(string(b), err)
	}
	if _, err := ReadFile(dir+"/file", 2); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if err := os.Rename(dir+"/none", dir+"/x"); Cause(err) != unix.ENOENT {
		t.Error(Cause(err))
	}
}

package durable

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestDrain copies a file and measures after each step how much of both is on the disk.
func TestDrain(t *testing.T) {
	dir := t.TempDir()
	if !CanDrain(dir) {
		t.Skip("the file system here frees no part of a file")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Fatalf("%v is left, %v", left, err)
	}
	const size = 5*DrainStep + 12345
	noise, sum := rand.NewChaCha8([32]byte{}), sha256.New()
	from, err := os.Create(filepath.Join(dir, "from"))
	must(t, err)
	defer from.Close()
	_, err = io.CopyN(io.MultiWriter(from, sum), noise, size)
	must(t, err)
	_, err = from.Seek(0, io.SeekStart)
	must(t, err)
	must(t, from.Sync()) // a delayed allocation would count as none
	to, err := os.Create(filepath.Join(dir, "to"))
	must(t, err)
	defer to.Close()
	d, ok := NewDrain(from)
	if !ok {
		t.Fatal("the file cannot be drained")
	}
	onDisk := func(f *os.File) int64 {
		info, err := f.Stat()
		must(t, err)
		return info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	sums := sha256.New()
	most := int64(0)
	for n := int64(DrainStep); n > 0; {
		n, err = io.CopyN(io.MultiWriter(to, sums), d, DrainStep)
		must(t, to.Sync())
		most = max(most, onDisk(from)+onDisk(to))
		if err == io.EOF {
			break
		}
		must(t, err)
	}
	if most > size+2*DrainStep {
		t.Errorf("at most %d bytes were on the disk, of %d", most, size)
	}
	if left := onDisk(from); left > 64<<10 {
		t.Errorf("%d bytes are left of what was read", left)
	}
	if got, want := hex.EncodeToString(sums.Sum(nil)), hex.EncodeToString(sum.Sum(nil)); got != want {
		t.Errorf("the copy has sha256 %s, want %s", got, want)
	}
}

// TestOpenDrainIn opens no file that belongs to another user than its directory.
func TestOpenDrainIn(t *testing.T) {
	dir := t.TempDir()
	if !CanDrain(dir) {
		t.Skip("the file system here frees no part of a file")
	}
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	must(t, os.WriteFile(filepath.Join(dir, "own"), []byte("own"), 0o600))
	must(t, os.Symlink("own", filepath.Join(dir, "link")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	open := func(name string) error {
		_, f, err := OpenDrainIn(root, name)
		if err == nil {
			f.Close()
		}
		return err
	}
	must(t, open("own"))
	for _, name := range []string{"fifo", "none", "../own"} {
		if open(name) == nil {
			t.Errorf("%s is opened", name)
		}
	}
	if os.Geteuid() == 0 {
		must(t, os.Chown(filepath.Join(dir, "own"), 1234, 1234))
		if err := open("own"); err == nil || err.Error() != "it has another owner than its directory" {
			t.Errorf("another user's file: %v", err)
		}
	}
}

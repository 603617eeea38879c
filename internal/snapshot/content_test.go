package snapshot

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// random writes n bytes that no file system can compress.
func random(t testing.TB, path string, n int) {
	t.Helper()
	content := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(len(path))})
	_, err := r.Read(content)
	must(t, err)
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, content, 0o644))
}

func blocks(t testing.TB, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	return st.Blocks * 512
}

// holes makes a file of 1 TiB with data at its beginning, in the middle, and before a
// hole at its end.
func holes(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for _, at := range []int64{0, 1 << 30, 1<<39 + 12345} {
		_, err := f.WriteAt([]byte("data"), at)
		must(t, err)
	}
	must(t, f.Truncate(1<<40))
}

// TestHoles: a database of 1 TiB with little data is saved, compared and restored
// quickly, and takes no more space. Clone and copy both keep holes.
func TestHoles(t *testing.T) {
	everywhere(t, func(t *testing.T, dir string) {
		other := t.TempDir() // except in one run, it is another file system
		must(t, os.Mkdir(dir+"/data", 0o755))
		data := dir + "/data/map"
		holes(t, data)
		for _, backup := range []string{dir + "/backup", other + "/backup"} {
			sum := save(t, dir+"/data", backup)
			if sum.Size != 1<<40 || sum.Allocated > 1<<20 {
				t.Errorf("%+v were saved", sum)
			}
			if n := blocks(t, backup+"/map"); n > 1<<20 {
				t.Errorf("the backup takes %d bytes", n)
			}
			restore(t, backup, dir+"/data", false)
			for _, at := range []int64{1 << 30, 1 << 35, 1<<40 - 1} { // in data, in a hole and at the end
				f, err := os.OpenFile(data, os.O_WRONLY, 0)
				must(t, err)
				_, err = f.WriteAt([]byte("D"), at)
				must(t, err)
				must(t, f.Close())
				restore(t, backup, dir+"/data", true)
				if n := blocks(t, data); n > 1<<20 {
					t.Errorf("the restored file takes %d bytes", n)
				}
			}
			f, err := os.Open(data)
			must(t, err)
			for _, at := range []int64{0, 1 << 30, 1<<39 + 12345} {
				got := make([]byte, 6)
				_, err := f.ReadAt(got, at)
				must(t, err)
				if !bytes.Equal(got, []byte("data\x00\x00")) {
					t.Errorf("at %d there is %q", at, got)
				}
			}
			must(t, f.Close())
		}
	})
}

// TestShared: if the file system can, a backup and restored data share their blocks with
// the original: by a clone, and between two bind mounts, as in the transient unit.
func TestShared(t *testing.T) {
	const size = 64 << 20
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := disk(t, kind)
			random(t, dir+"/data/db", size)
			must(t, os.Truncate(dir+"/data/db", size-1234)) // no whole block at the end
			must(t, os.Mkdir(dir+"/bound", 0o700))
			must(t, os.Mkdir(dir+"/backups", 0o700))
			bind(t, dir+"/backups", dir+"/bound")
			for _, backup := range []string{dir + "/backup", dir + "/bound/backup"} {
				before := free(t, dir)
				save(t, dir+"/data", backup)
				if took := before - free(t, dir); took > 1<<20 {
					t.Errorf("%s took %d bytes of its own", backup, took)
				}
				want := describe(t, dir+"/data")
				must(t, os.WriteFile(dir+"/data/db", []byte("lost"), 0o644))
				before = free(t, dir)
				restore(t, backup, dir+"/data", true)
				if took := before - free(t, dir); took > 1<<20 {
					t.Errorf("restoring from %s took %d bytes", backup, took)
				}
				equal(t, backup, describe(t, dir+"/data"), want)
				before = free(t, dir)
				restore(t, backup, dir+"/data", false)
				if took := before - free(t, dir); took > 1<<16 {
					t.Errorf("comparing with %s took %d bytes", backup, took)
				}
			}
		})
	}
}

// TestCopy: all ways of copying have the same result. The kernel of this test would
// otherwise use only the first.
func TestCopy(t *testing.T) {
	testkit.Slow(t)
	everywhere(t, func(t *testing.T, dir string) {
		for _, size := range []int{0, 1, 4095, 4096, 1<<20 + 1, 5 << 20} {
			for _, holey := range []bool{false, true} {
				from, path := fmt.Sprintf("%s/from%d%v", dir, size, holey), fmt.Sprintf("%s/to%d%v", dir, size, holey)
				random(t, from, size)
				if holey {
					must(t, os.Truncate(from, int64(size)+1<<21))
				}
				src, err := os.Open(from)
				must(t, err)
				defer src.Close()
				info, err := src.Stat()
				must(t, err)
				for way, copy := range map[string]func(dst *os.File) error{
					"any": func(dst *os.File) error { return copyContent(dst, src, info.Size()) },
					"kernel": func(dst *os.File) error {
						if at, err := copyRange(dst, src, 0, info.Size()); err != nil || at != info.Size() {
							return fmt.Errorf("it came to %d: %v", at, err)
						}
						return nil
					},
					"blocks": func(dst *os.File) error {
						if info.Size() == 0 {
							return nil
						}
						return copyBlocks(dst, src, 0, info.Size())
					},
				} {
					dst, err := os.Create(path)
					must(t, err)
					must(t, copy(dst))
					same, err := sameContent(src, dst, info.Size())
					must(t, err)
					want, err := os.ReadFile(from)
					must(t, err)
					got, err := os.ReadFile(path)
					must(t, err)
					if !bytes.Equal(got, want) || !same {
						t.Errorf("%s of %d bytes is not the same (%v)", way, size, same)
					}
					must(t, dst.Close())
				}
			}
		}
	})
}

// TestAnotherFileSystem: the backup is on another file system than the data.
func TestAnotherFileSystem(t *testing.T) {
	needRoot(t)
	dir, other := disk(t, "ext4"), disk(t, "xfs")
	plant(t, dir)
	want := describe(t, dir+"/data")
	save(t, dir+"/data", other+"/backup")
	equal(t, "backup", describe(t, other+"/backup"), want)
	must(t, os.RemoveAll(dir+"/data"))
	put(t, dir+"/data/a/x", "x")
	restore(t, other+"/backup", dir+"/data", true)
	equal(t, "restored", describe(t, dir+"/data"), want)
}

// TestManyFiles saves 10,000 files.
func TestManyFiles(t *testing.T) {
	testkit.Slow(t)
	dir := t.TempDir()
	for i := range 100 {
		for j := range 100 {
			put(t, fmt.Sprintf("%s/data/%d/%d", dir, i, j), fmt.Sprint(i, j))
		}
	}
	want := describe(t, dir+"/data")
	if sum := save(t, dir+"/data", dir+"/backup"); sum.Entries != 10101 {
		t.Errorf("%s were saved", sum)
	}
	for i := range 100 {
		put(t, fmt.Sprintf("%s/data/%d/%d", dir, i, i), "changed")
		put(t, fmt.Sprintf("%s/data/%d/new", dir, i), "new")
		must(t, os.Remove(fmt.Sprintf("%s/data/%d/%d", dir, i, 99-i)))
	}
	restore(t, dir+"/backup", dir+"/data", true)
	equal(t, "restored", describe(t, dir+"/data"), want)
	restore(t, dir+"/backup", dir+"/data", false)
}

package snapshot

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// mkfs makes the file systems of these tests, without and with shared blocks.
var mkfs = map[string][]string{
	"ext4":  {"mkfs.ext4", "-q"},
	"xfs":   {"mkfs.xfs", "-q", "-m", "reflink=1"},
	"btrfs": {"mkfs.btrfs", "-q"},
}

// disk mounts a new file system of the kind and returns its directory.
func disk(t testing.TB, kind string) string {
	t.Helper()
	testkit.Slow(t)
	needRoot(t)
	if _, err := exec.LookPath(mkfs[kind][0]); err != nil {
		t.Skip(err)
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 1<<30))
	run(t, append(mkfs[kind], image)...)
	must(t, os.Mkdir(at, 0o755))
	if out, err := exec.Command("mount", "-o", "loop", "-t", kind, image, at).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "loop") || strings.Contains(string(out), "unknown filesystem") {
			t.Skipf("%s", out)
		}
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() { unmount(t, at) })
	return at
}

func unmount(t testing.TB, at string) {
	if err := unix.Unmount(at, 0); err != nil {
		t.Errorf("%s: %v", at, err)
		_ = unix.Unmount(at, unix.MNT_DETACH) // otherwise its directory could not be removed
	}
}

// bind mounts one directory or file on another.
func bind(t testing.TB, what, at string) {
	t.Helper()
	must(t, unix.Mount(what, at, "", unix.MS_BIND, ""))
	t.Cleanup(func() { unmount(t, at) })
}

func run(t testing.TB, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", argv, err, out)
	}
}

// everywhere runs a test on each kind of file system, and on that of the temporary
// directory.
func everywhere(t *testing.T, test func(t *testing.T, dir string)) {
	needRoot(t)
	t.Run("here", func(t *testing.T) { test(t, t.TempDir()) })
	for kind := range mkfs {
		t.Run(kind, func(t *testing.T) { test(t, disk(t, kind)) })
	}
}

// free returns how many bytes of a file system are free after all data are written.
func free(t testing.TB, dir string) int64 {
	t.Helper()
	d, err := os.Open(dir)
	must(t, err)
	defer d.Close()
	must(t, unix.Syncfs(int(d.Fd())))
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	return int64(st.Bfree) * st.Bsize
}

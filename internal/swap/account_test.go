package swap

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestGiveTree shows what an upgrade gives to a target's own account: the files of the old
// account, but no file of root's that it had linked.
func TestGiveTree(t *testing.T) {
	testkit.NeedRoot(t, "it changes owners")
	const old, now = 61001, 61002
	base := t.TempDir()
	dir := filepath.Join(base, "fetch")
	for _, name := range []string{"status.json", "ready/a1/payload", "ready/a1/deep/er/file"} {
		testkit.Put(t, filepath.Join(dir, name), "x")
	}
	must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		must(t, err)
		return os.Lchown(path, old, old)
	}))
	shadow := filepath.Join(base, "shadow")
	testkit.Put(t, shadow, "root's")
	must(t, os.Link(shadow, filepath.Join(dir, "ready/a1/linked")))
	must(t, os.Symlink(shadow, filepath.Join(dir, "ready/link")))
	must(t, giveTree(dir, now, now))
	for path, want := range map[string]int{dir: now, dir + "/status.json": now, dir + "/ready": now, dir + "/ready/a1/payload": now,
		dir + "/ready/a1/linked": 0, shadow: 0, dir + "/ready/a1/deep/er": old} {
		i, err := os.Lstat(path)
		must(t, err)
		if got := uidOf(i); got != want {
			t.Errorf("%s belongs to %d, want %d", path, got, want)
		}
	}
	must(t, giveTree(dir, now, now))
	must(t, giveTree(filepath.Join(base, "missing"), now, now))
}

package durable

import (
	"os"
	"path/filepath"
	"testing"
)

// TestOfUser follows root's links to a user's directory, and does not go by what others
// than root can replace.
func TestOfUser(t *testing.T) {
	if os.Geteuid() != 0 {
		if OfUser(filepath.Join(t.TempDir(), "x")) {
			t.Error("an own file counts as another user's")
		}
		return
	}
	dir, err := os.MkdirTemp("/srv", "machinemon-update-test-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Chmod(dir, 0o755))
	for _, name := range []string{"app/bin", "app/root", "own/bin", "open/app"} {
		must(t, os.MkdirAll(at(name), 0o755))
	}
	for _, name := range []string{"app", "app/bin", "open/app"} {
		must(t, os.Chown(at(name), 1234, 1234))
	}
	must(t, os.Chmod(at("open"), 0o777))
	must(t, os.WriteFile(at("own/theirs"), nil, 0o755))
	must(t, os.Chown(at("own/theirs"), 1234, 1234))
	must(t, os.Symlink("own/../app/bin", at("link")))
	must(t, os.Symlink(at("own"), at("app/back")))
	must(t, os.Symlink("circle", at("circle")))
	for path, want := range map[string]bool{
		at("app/bin/x"): true, at("app/root/x"): true, at("app/back/x"): true, at("app/none/x"): true, at("link/x"): true,
		at("app"): false, at("own/bin/x"): false, at("own/theirs"): false, at("none/x"): false, at("circle/x"): false, at("open/app/x"): false,
		"/home/none/x": true, "x": false, "": false,
	} {
		if got := OfUser(path); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
	if in, uid, ok := UserOf(at("link/x")); in != at("app") || uid != 1234 || !ok {
		t.Errorf("the link leads to %s of %d, %v", in, uid, ok)
	}
}

package command

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestOpenForWriting: which files this process has open for writing, and where.
func TestOpenForWriting(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	open := func(name string, flags int) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
	}
	open("data/app.db", os.O_RDWR)
	open("data/deep/log", os.O_WRONLY|os.O_APPEND)
	open("data/read", os.O_RDONLY)
	open("data2", os.O_RDWR)
	open("config", os.O_RDWR)
	at := func(names ...string) (paths []string) {
		for _, n := range names {
			paths = append(paths, filepath.Join(dir, n))
		}
		return paths
	}
	const gone = 1 << 22 // larger than any PID, see /proc/sys/kernel/pid_max
	for _, c := range []struct{ snapshot, want []string }{
		{at("data"), at("data/app.db", "data/deep/log")},
		{at("config", "data/read"), at("config")},
		{at("data/app.db"), at("data/app.db")},
		{at("other"), nil},
	} {
		if got, err := openForWriting([]int{gone, os.Getpid()}, c.snapshot); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("of %q: %q, %v, want %q", c.snapshot, got, err, c.want)
		}
	}
}

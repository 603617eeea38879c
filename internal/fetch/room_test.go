package fetch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/fetch/source"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestRoomForFiles checks what is refused before the download because of the disk where
// the program is installed.
func TestRoomForFiles(t *testing.T) {
	testkit.NeedRoot(t, "it mounts a small file system")
	bin := t.TempDir()
	testkit.Must(t, unix.Mount("tmpfs", bin, "tmpfs", 0, "mode=755,size=4m"))
	t.Cleanup(func() { testkit.Must(t, unix.Unmount(bin, unix.MNT_DETACH)) })
	to := filepath.Join(bin, "agent")
	testkit.Must(t, os.WriteFile(to, make([]byte, 1<<20), 0o755)) // leaves 3 MiB
	prev := func(size int64) *state.Release {
		return &state.Release{Version: "v0", Files: []state.File{{To: to, SHA256: "x", Backup: filepath.Join(bin, "x"), Size: size}}}
	}
	const mb, none = 1 << 20, int64(-1)
	for _, c := range []struct {
		name string
		size int64 // of the new file; none if the manifest does not list it
		prev *state.Release
		set  func(t *target.Target)
		text string
	}{
		{"it fits", 3 * mb, nil, nil, ""},
		{"it does not", 3*mb + 1, nil, nil, "cannot install v2: its files need 3.1 MB on the disk of " + bin + ", and 3.1 MB are free (hint: df shows what is full)"},
		{"nor with the copy for a hook", 3 * mb, nil, func(t *target.Target) { t.Hooks.PreSwap = []string{"/x"} }, "need 4.2 MB on the disk of " + bin},
		{"but without the previous release", 4 * mb, prev(mb), nil, ""},
		{"which is kept", 4 * mb, prev(mb), func(t *target.Target) { t.KeepPrevious = true },
			"need 4.2 MB on the disk of " + bin + ", and 3.1 MB are free; release v0, which rollback.keep_previous keeps, has 1.0 MB (hint: "},
		{"nor without it", 4*mb + 1, prev(mb), nil, "need 4.2 MB on the disk of " + bin},
		{"an earlier version's record", 4*mb + 1, prev(0), nil, ""},
		{"not listed", none, nil, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "")
			b.target.Install[0].To = to
			if c.set != nil {
				c.set(b.target)
			}
			f := &fetcher{tree: b.tree, name: "agent", previous: c.prev}
			r := &source.Release{Manifest: &manifest.Manifest{Version: "v2"}, Key: manifest.Host()}
			if c.size != none {
				r.Platform.Contents = map[string]manifest.Content{"agent": {Size: c.size}}
			}
			err := f.roomForFiles(b.target, r)
			if (err == nil) != (c.text == "") || err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %q", err, c.text)
			}
		})
	}
	// On one disk with the state, the verifier's files are freed while they are copied.
	b := newBench(t, "")
	b.tree.Var = filepath.Join(bin, "var")
	testkit.Must(t, os.MkdirAll(b.tree.Dir(state.RoleFetch, "agent"), 0o755))
	b.target.Install[0].To = to
	f := &fetcher{tree: b.tree, name: "agent"}
	r := &source.Release{Manifest: &manifest.Manifest{Version: "v2"}, Key: manifest.Host(),
		Platform: manifest.Platform{Contents: map[string]manifest.Content{"agent": {Size: 2 * mb}}}}
	testkit.Must(t, f.roomForFiles(b.target, r))
	r.Platform.Contents["agent"] = manifest.Content{Size: 4 * mb}
	if err := f.roomForFiles(b.target, r); err == nil || !strings.Contains(err.Error(), "need 4.2 MB") {
		t.Errorf("on one disk: %v", err)
	}
}

// TestRoomForDownload checks what is said of the kept previous release when a download does
// not fit, and how much the record says that it needs.
func TestRoomForDownload(t *testing.T) {
	testkit.NeedRoot(t, "it mounts a small file system")
	disk := t.TempDir()
	testkit.Must(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "mode=755,size=4m"))
	t.Cleanup(func() { testkit.Must(t, unix.Unmount(disk, unix.MNT_DETACH)) })
	const mb = 1 << 20
	of := func(dir string, size int64) *state.Release {
		return &state.Release{Version: "v0", Files: []state.File{{To: filepath.Join(dir, "agent"), SHA256: "x", Backup: filepath.Join(dir, "x"), Size: size}}}
	}
	const says = "cannot download agent.tar.gz: it needs 4.7 MB on the disk of "
	for _, c := range []struct {
		name   string
		stored int64
		prev   *state.Release
		keeps  bool
		text   string
	}{
		{"none is kept", 0, nil, false, " MB are free"},
		{"it fits with what is stored", mb, nil, false, ""},
		{"it would make room", 0, of(disk, mb), false, " MB are free; release v0, which is kept for a rollback by command, has 1.0 MB there, " +
			"and is given up when the next attempt begins (hint: run it again; or make room, to keep it)"},
		{"and must not", 0, of(disk, mb), true, " MB are free; release v0, which is kept for a rollback by command, has 1.0 MB there, " +
			"and rollback.keep_previous keeps it (hint: df shows what is full)"},
		{"too small", 0, of(disk, mb/8), false, " MB are free"},
		{"on another disk", 0, of(t.TempDir(), mb), false, " MB are free"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "")
			b.tree.Var = disk
			testkit.Must(t, os.MkdirAll(b.tree.Dir(state.RoleFetch, "agent"), 0o755))
			f := &fetcher{tree: b.tree, name: "agent", previous: c.prev, keeps: c.keeps}
			err := f.roomForDownload(manifest.Platform{File: "agent.tar.gz", Size: 3 * mb / 2, UnpackedSize: 3 * mb}, c.stored)
			if c.text == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), says) || !strings.HasSuffix(err.Error(), c.text) {
				t.Fatalf("%v, want %q", err, c.text)
			}
			if a := f.ended(failed(nil, err)); a.Needs != 9*mb/2 || a.Result != state.ResultFailed {
				t.Errorf("%+v", a)
			}
		})
	}
}

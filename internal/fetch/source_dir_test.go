package fetch

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

func mkfifo(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFileSource(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	renamed := func(name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			m := edit(release1(), func(p *manifest.Platform) { p.File = name })
			must(t, os.WriteFile(filepath.Join(dir, "client-manifest.json"), marshal(t, m), 0o644))
		}
	}
	for _, c := range []struct {
		name   string
		path   string // inside the directory
		edit   func(t *testing.T, dir string)
		result state.Result
		text   string
	}{
		{"a directory", "", nil, state.ResultHandedOn, ""},
		{"a manifest", "client-manifest.json", nil, state.ResultHandedOn, ""},
		{"a manifest with another name", "stable.json", func(t *testing.T, dir string) {
			must(t, os.Rename(filepath.Join(dir, "client-manifest.json"), filepath.Join(dir, "stable.json")))
		}, state.ResultHandedOn, ""},
		{"an archive", "agent.tar.gz", nil, state.ResultHandedOn, ""},
		{"an archive without a manifest", "agent.tar.gz", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "client-manifest.json")))
		}, state.ResultNotDownloaded, "there is no client-manifest.json beside it (hint: make one with machinemon-release publish)"},
		{"an archive that the manifest does not name", "agent.tar.gz", renamed("other.tar.gz"), state.ResultRefused, "beside it names other.tar.gz"},
		{"nothing there", "nowhere", nil, state.ResultNotDownloaded, "no such file"},
		{"an empty directory", "", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "client-manifest.json")))
		}, state.ResultNotDownloaded, "client-manifest.json: no such file"},
		{"no archive", "", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "agent.tar.gz")))
		}, state.ResultNotDownloaded, "agent.tar.gz: no such file"},
		{"a URL for the archive", "", renamed("https://example.com/agent.tar.gz"), state.ResultRefused, "not beside it"},
		{"a FIFO for the manifest", "", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "client-manifest.json")))
			mkfifo(t, filepath.Join(dir, "client-manifest.json"))
		}, state.ResultNotDownloaded, "not a regular file"},
		{"a FIFO for the archive", "", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "agent.tar.gz")))
			mkfifo(t, filepath.Join(dir, "agent.tar.gz"))
		}, state.ResultNotDownloaded, "not a regular file"},
		{"a link for the archive", "", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "agent.tar.gz")))
			must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "agent.tar.gz")))
		}, state.ResultNotDownloaded, "agent.tar.gz"},
		{"a shorter archive", "", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "agent.tar.gz"), payload[1:], 0o644))
		}, state.ResultRefused, "bytes instead of 340000"},
		{"another archive", "", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "agent.tar.gz"), make([]byte, len(payload)), 0o644))
		}, state.ResultRefused, "(hint: copy the archive and its manifest again, both of one release)"},
		{"a huge manifest", "", func(t *testing.T, dir string) {
			must(t, os.Truncate(filepath.Join(dir, "client-manifest.json"), 10<<30))
		}, state.ResultRefused, "larger than 1048576 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "client-manifest.json"), marshal(t, release1()), 0o644))
			must(t, os.WriteFile(filepath.Join(dir, "agent.tar.gz"), payload, 0o644))
			if c.edit != nil {
				c.edit(t, dir)
			}
			b := newBench(t, "")
			b.target.Source = target.Source{Type: target.SourceFile, Path: filepath.Join(dir, c.path)}
			a := b.run(t, b.order(state.VerbApply, "v1"))
			if c.result == state.ResultHandedOn {
				if a.Result != state.ResultHandedOn || len(b.spool(t)) != 1 {
					t.Errorf("%+v", a)
				}
				return
			}
			b.mustFail(t, a, c.result, c.text)
		})
	}
}

// TestFileSourceIsRoots checks that only root can write a file source, because a writer
// decides what root installs.
func TestFileSourceIsRoots(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "client-manifest.json"), marshal(t, release1()), 0o644); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, "")
	b.target.Source = target.Source{Type: target.SourceFile, Path: dir}
	b.rootOnly = target.CheckRootOnly
	b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1")), state.ResultMisconfigured, "root alone may write")
}

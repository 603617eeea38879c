package snapshot

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func digestOf(content string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(content))) }

// home makes the home of user, with a program, and a directory of root with the new one.
func home(t *testing.T) (path, file string) {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	must(t, os.Chmod(dir, 0o755))
	path, file = filepath.Join(dir, "home/bin/agent"), filepath.Join(dir, "root/new")
	put(t, path, "agent 1")
	put(t, file, "agent 2")
	for _, d := range []string{filepath.Dir(file), filepath.Dir(filepath.Dir(path)), filepath.Dir(path), path} {
		must(t, os.Chmod(d, 0o755))
	}
	must(t, os.Chmod(file, 0o644))
	for p := path; p != dir; p = filepath.Dir(p) {
		must(t, os.Chown(p, user, user))
	}
	must(t, os.Chmod(path, 0o750))
	return path, file
}

// TestProgramPut checks which files the user's process replaces, and by what.
func TestProgramPut(t *testing.T) {
	for _, row := range []struct {
		name     string
		before   func(path string) error // nil: the program is as installed
		replaces []string
		want     string // the content afterwards
		mode     fs.FileMode
		problem  string
	}{
		{"the old program", nil, []string{digestOf("agent 1")}, "agent 2", 0o750, ""},
		{"another digest", nil, []string{digestOf("agent 0"), "-"}, "agent 1", 0o750, "another file was put there since, and stays"},
		{"the new program is there", func(p string) error { return os.WriteFile(p, []byte("agent 2"), 0) }, []string{"-"}, "agent 2", 0o750, ""},
		{"nothing is there", os.Remove, []string{"-"}, "agent 2", 0o755, ""},
		{"nothing is there, unexpectedly", os.Remove, []string{digestOf("agent 1")}, "", 0, "another file was put there since"},
		{"a killed put left its file", func(p string) error {
			at, err := data(p)
			if err != nil {
				return err
			}
			defer at.dir.Close()
			rest := filepath.Join(filepath.Dir(p), at.temporary().name)
			return os.Symlink("/etc/passwd", rest)
		}, []string{digestOf("agent 1")}, "agent 2", 0o750, ""},
		{"setuid", func(p string) error { return os.Chmod(p, 0o4750|fs.ModeSetuid) }, []string{digestOf("agent 1")}, "agent 1", 0o750 | fs.ModeSetuid, "it is setuid or setgid"},
		{"of another user", func(p string) error { return os.Chown(p, 0, user) }, []string{digestOf("agent 1")}, "agent 1", 0o750, "it is owned by user 0, and the unit runs as user 1234"},
		{"a directory", func(p string) error {
			if err := os.Remove(p); err != nil {
				return err
			}
			return os.Mkdir(p, 0o755)
		}, []string{"-"}, "", fs.ModeDir | 0o755, "not a regular file"},
		{"a FIFO", func(p string) error {
			if err := os.Remove(p); err != nil {
				return err
			}
			if err := unix.Mkfifo(p, 0o600); err != nil {
				return err
			}
			return os.Chmod(p, 0o644)
		}, []string{"-"}, "", fs.ModeNamedPipe | 0o644, "agent: "},
		{"a link", func(p string) error {
			if err := os.Rename(p, p+".1"); err != nil {
				return err
			}
			return os.Symlink("agent.1", p)
		}, []string{digestOf("agent 1")}, "", fs.ModeSymlink | 0o777, "a symbolic link leads to it (hint: name "},
		{"a link above", func(p string) error {
			if err := os.Rename(filepath.Dir(p), filepath.Dir(p)+".1"); err != nil {
				return err
			}
			return os.Symlink("bin.1", filepath.Dir(p))
		}, []string{digestOf("agent 1")}, "agent 1", 0o750, "a symbolic link leads to it"},
	} {
		t.Run(row.name, func(t *testing.T) {
			path, file := home(t)
			if row.before != nil {
				must(t, row.before(path))
			}
			_, err := as(t, user, append([]string{"program-put", file, path}, row.replaces...)...)
			if row.problem != "" {
				refused(t, err, row.problem)
			} else if err != nil {
				t.Error(err)
			}
			info, err := os.Lstat(path)
			if row.mode == 0 {
				if !os.IsNotExist(err) {
					t.Errorf("%v, %v is there", info, err)
				}
				return
			}
			must(t, err)
			if info.Mode() != row.mode {
				t.Errorf("the mode is %v, want %v", info.Mode(), row.mode)
			}
			if !info.Mode().IsRegular() {
				return
			}
			got, err := os.ReadFile(path)
			must(t, err)
			if string(got) != row.want {
				t.Errorf("there is %q, want %q", got, row.want)
			}
			if row.problem == "" && info.Sys().(*syscall.Stat_t).Uid != user {
				t.Errorf("it is owned by user %d", info.Sys().(*syscall.Stat_t).Uid)
			}
			if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), leftover+"*")); err != nil || row.problem == "" && len(left) > 0 {
				t.Errorf("it left %q, %v", left, err)
			}
		})
	}
}

// TestProgramElsewhere: the user's own links lead the user's process nowhere where the user
// could not write anyway.
func TestProgramElsewhere(t *testing.T) {
	path, file := home(t)
	must(t, os.Remove(path))
	must(t, os.Remove(filepath.Dir(path)))
	must(t, os.Symlink(filepath.Dir(file), filepath.Dir(path)))
	must(t, os.WriteFile(filepath.Join(filepath.Dir(file), "agent"), []byte("root's"), 0o644))
	_, err := as(t, user, "program-put", file, path, digestOf("root's"), "-")
	refused(t, err, "a symbolic link leads to it")
	// A link that is made after that check leads to the kernel's refusal.
	_, err = as(t, user, "program-put", file, filepath.Join(filepath.Dir(file), "none"), "-")
	refused(t, err, "permission denied")
}

// TestProgramLook checks what root gets to see of a program.
func TestProgramLook(t *testing.T) {
	path, _ := home(t)
	out := filepath.Join(filepath.Dir(filepath.Dir(path)), "program")
	most := "7"
	look := func() error { _, err := as(t, user, "program-look", most, path, out); return err }

	must(t, look())
	got, err := os.ReadFile(out)
	must(t, err)
	info, err := os.Stat(out)
	must(t, err)
	if string(got) != "agent 1" || info.Mode() != 0o750 {
		t.Errorf("there is %q with the mode %v", got, info.Mode())
	}
	refused(t, look(), "file exists")
	must(t, os.Remove(out))
	most = "6"
	refused(t, look(), "it has 7 bytes, more than the 6 for which there is space")
	most = "7"
	if _, err := exec.LookPath("setcap"); err == nil {
		must(t, exec.Command("setcap", "cap_net_raw+ep", path).Run())
		refused(t, look(), "it has file capabilities")
	}
	must(t, os.Remove(path))
	refused(t, look(), "no such file or directory")
}

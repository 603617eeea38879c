package snapshot

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// user owns the data of a daemon in these tests.
const user = 1234

// TestMain also runs the verbs, in a process that is killed or belongs to another user.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if verb, ok := Verbs[os.Args[1]]; ok {
			if err := verb(os.Stdout, os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// command returns a process that runs a verb.
func command(uid uint32, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd
}

// as runs a verb as the user; the error is what it printed.
func as(t *testing.T, uid uint32, args ...string) (out string, err error) {
	t.Helper()
	cmd := command(uid, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s", strings.TrimSuffix(stderr.String(), "\n"))
	}
	return stdout.String(), nil
}

var (
	must = testkit.Must
	put  = testkit.Put
)

func needRoot(t testing.TB) {
	t.Helper()
	testkit.NeedRoot(t, "it takes files of several users")
}

// seen is what a restore must restore of one entry.
type seen struct {
	mode     uint32
	uid, gid uint32
	size     int64
	mtime    time.Time
	content  string // digest of the content, or target of a link
	attrs    string
}

// describe returns the entries at path and below, by relative name, without sockets and
// FIFOs.
func describe(t testing.TB, path string) map[string]seen {
	t.Helper()
	all := map[string]seen{}
	must(t, filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		s := seen{mode: st.Mode, uid: st.Uid, gid: st.Gid, mtime: time.Unix(st.Mtim.Unix()), attrs: attributes(t, name)}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFSOCK, unix.S_IFIFO:
			return nil
		case unix.S_IFREG:
			s.size = st.Size
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			s.content = fmt.Sprintf("%x", sha256.Sum256(content))
		case unix.S_IFLNK:
			if s.content, err = os.Readlink(name); err != nil {
				return err
			}
		}
		relative, err := filepath.Rel(path, name)
		all[relative] = s
		return err
	}))
	return all
}

func attributes(t testing.TB, path string) string {
	t.Helper()
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	if err == unix.EOPNOTSUPP {
		return ""
	}
	must(t, err)
	var all []string
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if !counts(name) || name == selinux { // XFS also lists its own form of an ACL
			continue
		}
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, name, value)
		must(t, err)
		all = append(all, fmt.Sprintf("%s=%q", name, value[:n]))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// equal reports the differences between two descriptions.
func equal(t testing.TB, what string, got, want map[string]seen) {
	t.Helper()
	for name := range maps.Keys(want) {
		if g, there := got[name]; !there {
			t.Errorf("%s: %q is missing", what, name)
		} else if g != want[name] {
			t.Errorf("%s: %q is\n %+v, want\n %+v", what, name, g, want[name])
		}
	}
	for name := range maps.Keys(got) {
		if _, wanted := want[name]; !wanted {
			t.Errorf("%s: %q is there", what, name)
		}
	}
}

func save(t testing.TB, src, dst string) Summary {
	t.Helper()
	sum, err := Save(src, dst, 1<<40)
	must(t, err)
	return sum
}

func restore(t testing.TB, backup, to string, want bool) {
	t.Helper()
	changed, err := Restore(backup, to)
	must(t, err)
	if changed != want {
		t.Errorf("changed is %v, want %v", changed, want)
	}
}

func refused(t testing.TB, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
}

// stamps returns what differs after a file was written again.
func stamps(t testing.TB, path string) map[string][2]int64 {
	t.Helper()
	all := map[string][2]int64{}
	must(t, filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		err = unix.Lstat(name, &st)
		all[name] = [2]int64{int64(st.Ino), st.Ctim.Nano()}
		return err
	}))
	return all
}

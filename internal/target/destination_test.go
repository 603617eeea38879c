package target

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

const bin = "/usr/local/bin/agent"

func TestCheckDestinations(t *testing.T) {
	const snapshot = minimal + "[rollback]\nsnapshot = ['/opt/agent/config']\n"
	const other = "unit = 'other.service'\n[[install]]\nfrom = 'x'\nto = '%T'\n"
	for _, row := range []struct {
		name  string
		plant func(t *testing.T, d Dirs)
		other string // its `to`
		want  string // "" means that t is accepted
		hint  string
	}{
		{name: "nothing there"},
		{name: "plain file", plant: func(t *testing.T, d Dirs) { put(t, d.Root+bin, "") }},
		{name: "other file of another target", other: "/usr/local/bin/other"},
		{name: "no directory", plant: func(t *testing.T, d Dirs) { must(t, os.Remove(d.Root+"/usr/local/bin")) },
			want: ":4: install.to: /usr/local/bin: no such file or directory", hint: "create the directory first"},
		{name: "parent is a file", plant: func(t *testing.T, d Dirs) {
			must(t, os.Remove(d.Root+"/usr/local/bin"))
			put(t, d.Root+"/usr/local/bin", "")
		},
			want: ":4: install.to: " + bin + ": not a directory"},
		{name: "world-writable directory", plant: func(t *testing.T, d Dirs) { must(t, os.Chmod(d.Root+"/usr/local/bin", 0o1777)) },
			want: ":4: install.to: /usr/local/bin is writable by everyone", hint: rootOnlyHint},
		{name: "group-writable parent", plant: func(t *testing.T, d Dirs) { must(t, os.Chmod(d.Root+"/usr", 0o775)) },
			want: ":4: install.to: /usr is writable by its group " + gid(), hint: rootOnlyHint},
		{name: "writable file", plant: func(t *testing.T, d Dirs) { put(t, d.Root+bin, ""); must(t, os.Chmod(d.Root+bin, 0o757)) },
			want: ":4: install.to: " + bin + " is writable by everyone", hint: rootOnlyHint},
		{name: "symlink", plant: func(t *testing.T, d Dirs) { must(t, os.Symlink("/opt/agent/agent", d.Root+bin)) },
			want: ":4: install.to: " + bin + " is a symlink", hint: "name the file that it leads to"},
		{name: "dangling symlink", plant: func(t *testing.T, d Dirs) { must(t, os.Symlink("/none", d.Root+bin)) },
			want: ":4: install.to: " + bin + " is a symlink", hint: "name the file that it leads to"},
		{name: "fifo", plant: func(t *testing.T, d Dirs) { must(t, syscall.Mkfifo(d.Root+bin, 0o644)) },
			want: ":4: install.to: " + bin + " is not a regular file"},
		{name: "parent leads to a home", plant: func(t *testing.T, d Dirs) {
			put(t, d.Root+"/home/joe/agent", "")
			must(t, os.Remove(d.Root+"/usr/local/bin"))
			must(t, os.Symlink("/home/joe", d.Root+"/usr/local/bin"))
		}, want: ":4: install.to: " + bin + " is in /home"},
		{name: "parent leads to a writable directory", plant: func(t *testing.T, d Dirs) {
			must(t, os.Remove(d.Root+"/usr/local/bin"))
			must(t, os.Symlink("../../open/../open", d.Root+"/usr/local/bin"))
			put(t, d.Root+"/open/x", "")
			must(t, os.Chmod(d.Root+"/open", 0o777))
		}, want: ":4: install.to: /open is writable by everyone", hint: rootOnlyHint},
		{name: "symlinks in a circle", plant: func(t *testing.T, d Dirs) {
			must(t, os.Remove(d.Root+"/usr/local/bin"))
			must(t, os.Symlink("/usr/local/bin", d.Root+"/usr/local/bin"))
		}, want: ":4: install.to: /usr/local/bin: too many levels of symbolic links", hint: rootOnlyHint},
		{name: "setuid", plant: func(t *testing.T, d Dirs) {
			put(t, d.Root+bin, "")
			must(t, os.Chmod(d.Root+bin, 0o755|os.ModeSetuid))
		}, want: ":4: install.to: " + bin + " is setuid or setgid", hint: capabilitiesHint},
		{name: "Debian package", plant: func(t *testing.T, d Dirs) {
			put(t, d.Root+"/var/lib/dpkg/info/a.list", "/.\n/usr\n"+bin+"-ctl\n")
			put(t, d.Root+"/var/lib/dpkg/info/b:amd64.list", "/.\n/usr\n"+bin+"\n")
			put(t, d.Root+"/var/lib/dpkg/info/b:amd64.md5sums", "")
		}, want: ":4: install.to: " + bin + " belongs to the Debian package b:amd64", hint: "a program that apt installs is updated by apt"},
		{name: "Debian package, by where a symlink leads", plant: func(t *testing.T, d Dirs) {
			must(t, os.Remove(d.Root+"/usr/local/bin"))
			must(t, os.Symlink("../bin", d.Root+"/usr/local/bin"))
			put(t, d.Root+"/var/lib/dpkg/info/a.list", "/.\n/usr/bin/agent\n")
		}, want: ":4: install.to: /usr/bin/agent belongs to the Debian package a", hint: "a program that apt installs is updated by apt"},
		{name: "Debian package from before /bin was a symlink", plant: func(t *testing.T, d Dirs) {
			must(t, os.Remove(d.Root+"/usr/local/bin"))
			must(t, os.Symlink("/usr/bin", d.Root+"/usr/local/bin"))
			put(t, d.Root+"/var/lib/dpkg/info/a.list", "/.\n/bin/agent\n")
		}, want: ":4: install.to: /bin/agent belongs to the Debian package a", hint: "a program that apt installs is updated by apt"},
		{name: "other Debian package", plant: func(t *testing.T, d Dirs) {
			put(t, d.Root+"/var/lib/dpkg/info/a.list", "/.\n/usr/local/bin\n"+bin+"-ctl\n/x"+bin+"\n")
		}},
		{name: "other target", other: bin, want: ":4: install.to: " + bin + " belongs to target other"},
		{name: "other target by another name", other: "/opt/bin/agent", plant: func(t *testing.T, d Dirs) {
			must(t, os.Symlink("../usr/local/bin", d.Root+"/opt/bin"))
		}, want: ":4: install.to: " + bin + " belongs to target other"},
		{name: "snapshot of another target", other: "/opt/agent/config", want: ":6: rollback.snapshot: /opt/agent/config belongs to target other"},
		{name: "snapshot in a writable directory", plant: func(t *testing.T, d Dirs) { must(t, os.Chmod(d.Root+"/opt/agent", 0o777)) }},
		{name: "no directory of a snapshot", plant: func(t *testing.T, d Dirs) { must(t, os.RemoveAll(d.Root+"/opt/agent")) },
			want: ":6: rollback.snapshot: /opt/agent: no such file or directory", hint: "create the directory first"},
		{name: "snapshot is a symlink", plant: func(t *testing.T, d Dirs) { must(t, os.Symlink("/etc/shadow", d.Root+"/opt/agent/config")) },
			want: ":6: rollback.snapshot: /opt/agent/config is a symlink", hint: "name what it leads to"},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := tree(t, map[string]string{adminFile: snapshot})
			all := []*Target{}
			if row.other != "" {
				put(t, d.Root+d.Admin+"/other.toml", strings.ReplaceAll(other, "%T", row.other))
				o, err := d.Load("other")
				must(t, err)
				all = append(all, o)
			}
			agent, err := d.Load("agent")
			must(t, err)
			if row.plant != nil {
				row.plant(t, d)
			}
			checkDestinations(t, agent, append(all, agent), row.want, row.hint)
		})
	}
}

func checkDestinations(t *testing.T, agent *Target, all []*Target, want, hint string) {
	t.Helper()
	err := agent.CheckDestinations(all)
	if want == "" {
		must(t, err)
		return
	}
	var ce *ConfigError
	if !errors.As(err, &ce) {
		t.Fatalf("got %v, want a ConfigError: %s", err, want)
	}
	if want = "cannot use target agent: " + adminFile + withHint(want, hint); ce.Error() != want {
		t.Errorf("\n got %s\nwant %s", ce, want)
	}
	if ce.Hint != hint {
		t.Errorf("got hint %q, want %q", ce.Hint, hint)
	}
}

// TestPrivilegedAttributes is TestCheckDestinations for attributes that only root can
// set.
func TestPrivilegedAttributes(t *testing.T) {
	testkit.NeedRoot(t, "it sets foreign owners and file capabilities")
	// acl(5) in the kernel's form: version 2, then tag, permissions and id of
	// user::rw-, user:1000:rw-, group::r--, mask::rw-, other::r--.
	acl := []byte("\x02\x00\x00\x00" +
		"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\xe8\x03\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x06\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff")
	readACL := []byte("\x02\x00\x00\x00" +
		"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff")
	capability := []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00") // cap_net_bind_service=ep
	setxattr := func(t *testing.T, file, name string, value []byte) {
		if err := unix.Setxattr(file, name, value, 0); errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
			t.Skipf("%s: %v", name, err)
		} else {
			must(t, err)
		}
	}
	for _, row := range []struct {
		name  string
		plant func(t *testing.T, d Dirs)
		want  string
		hint  string
	}{
		{"capabilities", func(t *testing.T, d Dirs) { setxattr(t, d.Root+bin, "security.capability", capability) },
			":4: install.to: " + bin + " has file capabilities", capabilitiesHint},
		{"ACL", func(t *testing.T, d Dirs) { setxattr(t, d.Root+bin, "system.posix_acl_access", readACL) },
			":4: install.to: " + bin + " has an ACL", capabilitiesHint},
		{"ACL of a directory", func(t *testing.T, d Dirs) { setxattr(t, d.Root+"/usr", "system.posix_acl_access", acl) },
			":4: install.to: /usr is writable by its group 0", rootOnlyHint},
		{"ACL of a staff directory", func(t *testing.T, d Dirs) {
			must(t, os.Chown(d.Root+"/usr/local/bin", 0, debianStaff))
			setxattr(t, d.Root+"/usr/local/bin", "system.posix_acl_access", acl)
		}, ":4: install.to: /usr/local/bin has an ACL that lets others write", rootOnlyHint},
		{"owner of the file", func(t *testing.T, d Dirs) { must(t, os.Chown(d.Root+bin, 1000, 0)) },
			":4: install.to: " + bin + " is owned by user 1000, not by root", rootOnlyHint},
		{"owner of a parent", func(t *testing.T, d Dirs) { must(t, os.Chown(d.Root+"/usr/local", 1000, 0)) },
			"", ""}, // the swap wants a unit of that user, and its process does the rest
		{"owner of a parent that others can replace", func(t *testing.T, d Dirs) {
			must(t, os.Chmod(d.Root+"/usr", 0o777))
			must(t, os.Chown(d.Root+"/usr/local", 1000, 0))
		}, ":4: install.to: /usr is writable by everyone", rootOnlyHint},
		{"staff in /usr/local", func(t *testing.T, d Dirs) {
			for _, dir := range []string{"/usr/local", "/usr/local/bin"} {
				must(t, os.Chown(d.Root+dir, 0, debianStaff))
				must(t, os.Chmod(d.Root+dir, 0o775|os.ModeSetgid))
			}
		}, "", ""},
		{"users in /usr/local", func(t *testing.T, d Dirs) {
			must(t, os.Chown(d.Root+"/usr/local", 0, 100))
			must(t, os.Chmod(d.Root+"/usr/local", 0o775))
		}, ":4: install.to: /usr/local is writable by its group 100", rootOnlyHint},
		{"overflow group in /usr/local", func(t *testing.T, d Dirs) {
			must(t, os.Chown(d.Root+"/usr/local", 0, overflowGID))
			must(t, os.Chmod(d.Root+"/usr/local", 0o775))
		}, ":4: install.to: /usr/local is writable by its group 65534", rootOnlyHint},
		{"staff elsewhere", func(t *testing.T, d Dirs) {
			must(t, os.Chown(d.Root+"/usr", 0, debianStaff))
			must(t, os.Chmod(d.Root+"/usr", 0o775))
		}, ":4: install.to: /usr is writable by its group 50", rootOnlyHint},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := tree(t, map[string]string{adminFile: minimal, bin: ""})
			agent, err := d.Load("agent")
			must(t, err)
			row.plant(t, d)
			checkDestinations(t, agent, []*Target{agent}, row.want, row.hint)
		})
	}
}

// TestUserNamespace: PrivateUsers= of the fetcher and the verifier maps only root and
// their own user, so that Debian's group staff appears as 65534.
func TestUserNamespace(t *testing.T) {
	if root := os.Getenv("TARGET_TEST_ROOT"); root != "" {
		d := DefaultDirs
		d.Root = root
		for _, name := range []string{"agent", "hidden"} {
			_, err := d.Load(name)
			must(t, err)
		}
		if err := (checker{root: root}).rootOnly("/opt/agent"); err == nil || err.Error() != "/opt/agent is owned by user 65534, not by root" {
			t.Errorf("foreign directory: %v", err)
		}
		return
	}
	testkit.NeedRoot(t, "it takes files of several users")
	d := tree(t, map[string]string{adminFile: minimal + "[health]\nversion_command = ['" + bin + "']\n", bin: ""})
	must(t, os.Chown(d.Root+"/opt/agent", 1000, 1000))
	// This command is in a directory that the worker cannot read, as with ProtectHome=.
	put(t, d.Root+d.Admin+"/hidden.toml", minimal+"[health]\nversion_command = ['/opt/hidden/x/agent']\n")
	must(t, os.Mkdir(d.Root+"/opt/hidden", 0))
	must(t, os.Chown(d.Root+"/opt/hidden", 0, 1000))
	for _, dir := range []string{"/usr/local", "/usr/local/bin"} {
		must(t, os.Chown(d.Root+dir, 0, debianStaff))
		must(t, os.Chmod(d.Root+dir, 0o775|os.ModeSetgid))
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestUserNamespace$", "-test.v")
	cmd.Env = append(os.Environ(), "TARGET_TEST_ROOT="+d.Root)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Skipf("no user namespaces here: %v", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestCheckRootOnly looks at the machine's own files.
func TestCheckRootOnly(t *testing.T) {
	must(t, CheckRootOnly("/etc/passwd"))
	if err := CheckRootOnly("/tmp/x"); err == nil || err.Error() != "/tmp is writable by everyone" {
		t.Errorf("/tmp/x: %v", err)
	}
	if err := CheckRootOnly("/etc/none/x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if err := CheckRootOnly("etc"); err == nil || err.Error() != `"etc" is not an absolute path` {
		t.Errorf("relative path: %v", err)
	}
}

// TestDestinationNames: one directory has one name in a target file, and no target may
// replace our own units.
func TestDestinationNames(t *testing.T) {
	row := func(to string) string { return "[[install]]\nfrom = 'x'\nto = '" + to + "'\n" }
	for _, c := range []struct{ rows, want string }{
		{row("/usr/local/sbin/x"), "/usr/local/sbin and /usr/local/bin are the same directory"},
		{row("/etc/systemd/system/machinemon-swap@.service"), "must not be in the units of machinemon-update"},
		{row("/etc/systemd/system/machinemon-fetch@.timer"), "must not be in the units of machinemon-update"},
		{row("/etc/systemd/system/machinemon-fetch-full@.service"), "must not be in the units of machinemon-update"},
		{row("/etc/systemd/system/machinemon-swap@.service.d/x.conf"), "must not be in the units of machinemon-update"},
		{row("/etc/systemd/system/machinemon-client.service"), ""},
		{row("/etc/shadow"), "must not be in /etc/shadow, which belongs to the system itself"},
		{row("/etc/sudoers.d/agent"), "must not be in /etc/sudoers.d, which belongs to the system itself"},
		{row("/usr/bin/machinemon-update"), "must not be in /usr/bin/machinemon-update, which belongs to the system itself"},
		{"[rollback]\nsnapshot = ['/etc/shadow']\n", "must not be in /etc/shadow, which belongs to the system itself"},
		{"[rollback]\nsnapshot = ['/etc/pam.d']\n", "must not be in /etc/pam.d, which belongs to the system itself"},
		{"[rollback]\nsnapshot = ['/var/lib/systemd/linger']\n", "must not be in /var/lib/systemd, which belongs to the system itself"},
		{"[rollback]\nsnapshot = ['/etc/polkit-1/rules.d']\n", "must not be in /etc/polkit-1, which belongs to the system itself"},
		{row("/usr/local/bin/machinemon-update"), ""},
	} {
		d := tree(t, map[string]string{adminFile: minimal + c.rows})
		must(t, os.MkdirAll(d.Root+"/usr/local/bin", 0o755))
		must(t, os.MkdirAll(d.Root+"/etc/systemd/system", 0o755))
		must(t, os.Symlink("bin", d.Root+"/usr/local/sbin"))
		got, err := d.Load("agent")
		if err == nil {
			err = got.CheckDestinations(nil)
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.rows, err, c.want)
		}
	}
}

package target

import (
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestSnapshotPlace: root saves what only root can replace, and the user saves the rest.
func TestSnapshotPlace(t *testing.T) {
	testkit.NeedRoot(t, "it takes files of several users")
	const path = "/opt/agent/data"
	theirs := func(t *testing.T, d Dirs, at string) { must(t, os.Chown(d.Root+at, 1000, 1000)) }
	mkdir := func(t *testing.T, d Dirs, at string) { must(t, os.MkdirAll(d.Root+at, 0o755)) }
	for name, row := range map[string]struct {
		plant       func(t *testing.T, d Dirs)
		want        SnapshotPlace
		problem     string
		directories []string // except /usr/local/bin
	}{
		"nothing there": {plant: func(*testing.T, Dirs) {}, want: SnapshotPlace{Path: path}, directories: []string{"/opt/agent"}},
		"file":          {plant: func(t *testing.T, d Dirs) { put(t, d.Root+path, "") }, want: SnapshotPlace{Path: path}, directories: []string{"/opt/agent"}},
		"file of a user in a directory of root": {
			plant: func(t *testing.T, d Dirs) { put(t, d.Root+path, ""); theirs(t, d, path) },
			want:  SnapshotPlace{Path: path}, directories: []string{"/opt/agent"}},
		"file in a directory of a user": {
			plant: func(t *testing.T, d Dirs) { put(t, d.Root+path, ""); theirs(t, d, "/opt/agent") },
			want:  SnapshotPlace{Path: path, Theirs: "/opt/agent is owned by user 1000, not by root"}},
		"nothing in a directory of a user": {
			plant: func(t *testing.T, d Dirs) { theirs(t, d, "/opt/agent") },
			want:  SnapshotPlace{Path: path, Theirs: "/opt/agent is owned by user 1000, not by root"}},
		"directory": {plant: func(t *testing.T, d Dirs) { mkdir(t, d, path) }, want: SnapshotPlace{Path: path}, directories: []string{path}},
		"directory of a user": {
			plant: func(t *testing.T, d Dirs) { mkdir(t, d, path); theirs(t, d, path) },
			want:  SnapshotPlace{Path: path, Theirs: path + " is owned by user 1000, not by root"}},
		"directory that others write": {
			plant: func(t *testing.T, d Dirs) { mkdir(t, d, path); must(t, os.Chmod(d.Root+path, 0o775)) },
			want:  SnapshotPlace{Path: path, Theirs: path + " is writable by its group 0"}},
		"by way of a symlink": {
			plant: func(t *testing.T, d Dirs) {
				must(t, os.Remove(d.Root+"/opt/agent"))
				must(t, os.Symlink("../srv/agent", d.Root+"/opt/agent"))
				mkdir(t, d, "/srv/agent/data")
			},
			want: SnapshotPlace{Path: "/srv/agent/data"}, directories: []string{path}},
		"by way of a user's symlink": {
			plant: func(t *testing.T, d Dirs) {
				mkdir(t, d, "/srv/theirs")
				must(t, os.Symlink("/etc/machinemon-update", d.Root+"/srv/theirs/agent"))
				theirs(t, d, "/srv/theirs")
				must(t, os.Remove(d.Root+"/opt/agent"))
				must(t, os.Symlink("../srv/theirs/agent", d.Root+"/opt/agent"))
			},
			want: SnapshotPlace{Path: "/srv/theirs/agent/data", Theirs: "/srv/theirs is owned by user 1000, not by root"}},
		"symlink": {plant: func(t *testing.T, d Dirs) { must(t, os.Symlink("/etc", d.Root+path)) }, problem: path + " is a symlink (hint: name what it leads to)"},
		"symlink of a user": {
			plant:   func(t *testing.T, d Dirs) { theirs(t, d, "/opt/agent"); must(t, os.Symlink("/etc", d.Root+path)) },
			problem: path + " is a symlink"},
		"FIFO":         {plant: func(t *testing.T, d Dirs) { must(t, syscall.Mkfifo(d.Root+path, 0o600)) }, problem: path + " is neither a file nor a directory"},
		"no directory": {plant: func(t *testing.T, d Dirs) { must(t, os.Remove(d.Root+"/opt/agent")) }, problem: "/opt/agent: no such file"},
		"leads to a home": {
			plant: func(t *testing.T, d Dirs) {
				mkdir(t, d, "/home/joe")
				must(t, os.Remove(d.Root+"/opt/agent"))
				must(t, os.Symlink("/home/joe", d.Root+"/opt/agent"))
			}, problem: path + " is in /home"},
	} {
		t.Run(name, func(t *testing.T) {
			d := tree(t, map[string]string{adminFile: minimal + "[rollback]\nsnapshot = ['" + path + "']\n"})
			agent, err := d.Load("agent")
			must(t, err)
			row.plant(t, d)
			got, err := agent.SnapshotPlace(path)
			checked := agent.CheckDestinations([]*Target{agent})
			if row.problem != "" {
				for _, err := range []error{err, checked} {
					if err == nil || !strings.Contains(err.Error(), ":6: rollback.snapshot: "+row.problem) {
						t.Errorf("\n got %v\nwant %s", err, row.problem)
					}
				}
				return
			}
			must(t, err)
			must(t, checked)
			if got != row.want {
				t.Errorf("got %+v, want %+v", got, row.want)
			}
			want := append(row.directories, "/usr/local/bin")
			if dirs := agent.Directories(); !reflect.DeepEqual(dirs, want) {
				t.Errorf("directories are %v, want %v", dirs, want)
			}
		})
	}
}

// TestSnapshotOverlap: no two rollbacks restore the same path.
func TestSnapshotOverlap(t *testing.T) {
	const others = "unit = 'other.service'\n[[install]]\nfrom = 'x'\nto = '/usr/bin/other'\n"
	for name, row := range map[string]struct{ mine, other, want string }{
		"apart":                {"[rollback]\nsnapshot = ['/opt/agent/a']\n", "[rollback]\nsnapshot = ['/opt/agent/b']\n", ""},
		"the same":             {"[rollback]\nsnapshot = ['/opt/agent/a']\n", "[rollback]\nsnapshot = ['/opt/agent/a']\n", ":6: rollback.snapshot: /opt/agent/a belongs to target other"},
		"the same, by symlink": {"[rollback]\nsnapshot = ['/opt/agent/a']\n", "[rollback]\nsnapshot = ['/opt/link/a']\n", ":6: rollback.snapshot: /opt/agent/a belongs to target other"},
		"inside":               {"[rollback]\nsnapshot = ['/opt/agent/a']\n", "[rollback]\nsnapshot = ['/opt/agent']\n", ":6: rollback.snapshot: /opt/agent/a belongs to target other"},
		"around":               {"[rollback]\nsnapshot = ['/opt/agent']\n", "[rollback]\nsnapshot = ['/opt/link/a']\n", ":6: rollback.snapshot: /opt/agent overlaps /opt/link/a of target other"},
		"around its install":   {"[rollback]\nsnapshot = ['/opt/agent']\n", "[[install]]\nfrom = 'y'\nto = '/opt/agent/y'\n", ":6: rollback.snapshot: /opt/agent overlaps the installed file /opt/agent/y of target other"},
		"around its listing": {"[rollback]\nsnapshot = ['/opt/agent']\n", "[install_manifest]\nfile = 'x'\n[[install_manifest.type]]\nname = 'x'\ndirectory = '/opt/link'\nallow = ['*']\n",
			":6: rollback.snapshot: /opt/agent overlaps /opt/link, where a release may install files of target other"},
		"install in its":  {"[[install]]\nfrom = 'y'\nto = '/opt/agent/y'\n", "[rollback]\nsnapshot = ['/opt/agent']\n", ":7: install.to: /opt/agent/y belongs to target other"},
		"own, by symlink": {"[rollback]\nsnapshot = ['/opt/agent', '/opt/link/a/b']\n", "", ":6: rollback.snapshot: /opt/link/a/b overlaps /opt/agent"},
	} {
		t.Run(name, func(t *testing.T) {
			d := tree(t, map[string]string{adminFile: minimal + row.mine, DefaultDirs.Admin + "/other.toml": others + row.other})
			must(t, os.Symlink("agent", d.Root+"/opt/link"))
			must(t, os.Mkdir(d.Root+"/opt/agent/a", 0o755))
			agent, err := d.Load("agent")
			must(t, err)
			other, err := d.Load("other")
			must(t, err)
			checkDestinations(t, agent, []*Target{agent, other}, row.want, "")
		})
	}
}

// TestSnapshotAroundUs: no symlink makes a snapshot include the updater's own files.
func TestSnapshotAroundUs(t *testing.T) {
	d := tree(t, map[string]string{adminFile: minimal + "[rollback]\nsnapshot = ['/opt/link/lib']\n", "/usr/lib/x": ""})
	must(t, os.Symlink("../usr", d.Root+"/opt/link"))
	agent, err := d.Load("agent")
	must(t, err)
	checkDestinations(t, agent, nil, ":6: rollback.snapshot: /opt/link/lib contains /usr/lib/machinemon-update", "")
}

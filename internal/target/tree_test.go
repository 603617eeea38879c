package target

import (
	"maps"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestTreeDestination is TestCheckDestinations for a directory, which must have nothing
// else below it.
func TestTreeDestination(t *testing.T) {
	const file = "unit = 'agent.service'\n[[install]]\nfrom = 'agent/'\nto = '/opt/app'\n[health]\nmain = ''\n"
	const apt = "a program that apt installs is updated by apt"
	for _, row := range []struct {
		name       string
		plant      func(t *testing.T, d Dirs)
		other      string // the end of another target's file
		want, hint string
	}{
		{name: "nothing there"},
		{name: "a directory", plant: func(t *testing.T, d Dirs) { put(t, d.Root+"/opt/app/x", "") }},
		{name: "a file", plant: func(t *testing.T, d Dirs) { put(t, d.Root+"/opt/app", "") },
			want: ":4: install.to: /opt/app is not a directory"},
		{name: "a link", plant: func(t *testing.T, d Dirs) { must(t, os.Symlink("x", d.Root+"/opt/app")) },
			want: ":4: install.to: /opt/app is a symlink", hint: "name the file that it leads to"},
		{name: "others can write", plant: func(t *testing.T, d Dirs) {
			must(t, os.Mkdir(d.Root+"/opt/app", 0o755))
			must(t, os.Chmod(d.Root+"/opt/app", 0o777))
		}, want: ":4: install.to: /opt/app is writable by everyone", hint: rootOnlyHint},
		{name: "a mount point", plant: func(t *testing.T, d Dirs) {
			testkit.NeedRoot(t, "it mounts")
			must(t, os.Mkdir(d.Root+"/opt/app", 0o755))
			must(t, unix.Mount("tmpfs", d.Root+"/opt/app", "tmpfs", 0, "mode=755"))
			t.Cleanup(func() { must(t, unix.Unmount(d.Root+"/opt/app", unix.MNT_DETACH)) })
		}, want: ":4: install.to: /opt/app is a mount point, which cannot be replaced", hint: "mount it on a directory above it, or name a directory below it"},
		{name: "a package's", plant: func(t *testing.T, d Dirs) { put(t, d.Root+"/var/lib/dpkg/info/a.list", "/.\n/opt\n/opt/app\n") },
			want: ":4: install.to: /opt/app belongs to the Debian package a", hint: apt},
		{name: "a package's file below", plant: func(t *testing.T, d Dirs) { put(t, d.Root+"/var/lib/dpkg/info/a.list", "/.\n/opt/app/x\n") },
			want: ":4: install.to: /opt/app/ belongs to the Debian package a", hint: apt},
		{name: "a package's file beside", plant: func(t *testing.T, d Dirs) { put(t, d.Root+"/var/lib/dpkg/info/a.list", "/.\n/opt/app-x\n") }},
		{name: "another target's file below", other: "[[install]]\nfrom = 'x'\nto = '/opt/app/x'\n",
			want: ":4: install.to: /opt/app contains /opt/app/x of target other"},
		{name: "another target's directory", other: "[[install]]\nfrom = 'x/'\nto = '/opt/app'\n",
			want: ":4: install.to: /opt/app belongs to target other"},
		{name: "another target's data below", other: "[[install]]\nfrom = 'x'\nto = '/usr/local/bin/x'\n[rollback]\nsnapshot = ['/opt/app/data']\n",
			want: ":4: install.to: /opt/app contains /opt/app/data of target other"},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := tree(t, map[string]string{adminFile: file, "/opt/x": ""})
			all := []*Target{}
			if row.other != "" {
				put(t, d.Root+d.Admin+"/other.toml", "unit = 'other.service'\n"+row.other+"[health]\nmain = ''\n")
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

// TestReleasesDestination is TestTreeDestination for a link to one of several directories.
func TestReleasesDestination(t *testing.T) {
	const file = "unit = 'agent.service'\n[[install]]\nfrom = 'agent/'\nto = '/opt/app/now'\nreleases = '/opt/app/all'\n[health]\nmain = ''\n"
	const apt = "a program that apt installs is updated by apt"
	link := func(to string) func(*testing.T, Dirs) {
		return func(t *testing.T, d Dirs) {
			must(t, os.MkdirAll(d.Root+"/opt/app/all/1", 0o755))
			must(t, os.Symlink(to, d.Root+"/opt/app/now"))
		}
	}
	for _, row := range []struct {
		name       string
		plant      func(t *testing.T, d Dirs)
		other      string
		want, hint string
	}{
		{name: "nothing there"},
		{name: "a relative link", plant: link("all/1")},
		{name: "an absolute link", plant: link("/opt/app/all/1")},
		{name: "a link to nothing", plant: link("all/2"),
			want: ":4: install.to: /opt/app/now leads to nothing: /opt/app/all/2: no such file or directory", hint: "correct or remove the link"},
		{name: "others can write what it leads to", plant: func(t *testing.T, d Dirs) {
			link("all/1")(t, d)
			must(t, os.Chmod(d.Root+"/opt/app/all/1", 0o777))
		}, want: ":4: install.to: /opt/app/all/1 is writable by everyone", hint: rootOnlyHint},
		{name: "a directory", plant: func(t *testing.T, d Dirs) { put(t, d.Root+"/opt/app/now/x", "") },
			want: ":4: install.to: /opt/app/now is not a symlink", hint: "move it to /opt/app/all/NAME, and make it a link to that"},
		{name: "no directory of releases", plant: func(t *testing.T, d Dirs) { must(t, os.RemoveAll(d.Root+"/opt/app/all")) },
			want: ":5: install.releases: /opt/app/all: no such file or directory", hint: "create the directory first"},
		{name: "others can write there", plant: func(t *testing.T, d Dirs) { must(t, os.Chmod(d.Root+"/opt/app/all", 0o777)) },
			want: ":5: install.releases: /opt/app/all is writable by everyone", hint: rootOnlyHint},
		{name: "a package's", plant: func(t *testing.T, d Dirs) { put(t, d.Root+"/var/lib/dpkg/info/a.list", "/.\n/opt/app/all/x\n") },
			want: ":5: install.releases: /opt/app/all/ belongs to the Debian package a", hint: apt},
		{name: "another target's releases", other: "[[install]]\nfrom = 'x/'\nto = '/opt/x'\nreleases = '/opt/app/all'\n",
			want: ":5: install.releases: /opt/app/all belongs to target other"},
		{name: "another target's file below", other: "[[install]]\nfrom = 'x'\nto = '/opt/app/all/x'\n",
			want: ":5: install.releases: /opt/app/all contains /opt/app/all/x of target other"},
		{name: "another target's directory", other: "[[install]]\nfrom = 'x/'\nto = '/opt/app'\n",
			want: ":4: install.to: /opt/app/now belongs to target other"},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := tree(t, map[string]string{adminFile: file, "/opt/x": ""})
			must(t, os.MkdirAll(d.Root+"/opt/app/all", 0o755))
			all := []*Target{}
			if row.other != "" {
				put(t, d.Root+d.Admin+"/other.toml", "unit = 'other.service'\n"+row.other+"[health]\nmain = ''\n")
				o, err := d.Load("other")
				must(t, err)
				all = append(all, o)
			}
			agent, err := d.Load("agent")
			must(t, err)
			if want := []string{"/opt/app", "/opt/app/all"}; !slices.Equal(agent.Directories(), want) {
				t.Errorf("root writes in %q, want %q", agent.Directories(), want)
			}
			if row.plant != nil {
				row.plant(t, d)
			}
			checkDestinations(t, agent, append(all, agent), row.want, row.hint)
		})
	}
}

// TestFiles shows which entries of an archive an install takes.
func TestFiles(t *testing.T) {
	names := []string{"app-1.2/bin/app", "app-1.2/README", "app-1.2x/a", "other/b", "top"}
	for _, row := range []struct {
		from string
		want map[string]string
		err  string
	}{
		{"app-{number}/", map[string]string{"bin/app": "app-1.2/bin/app", "README": "app-1.2/README"}, ""},
		{"app-{number}/bin/", map[string]string{"app": "app-1.2/bin/app"}, ""},
		{"app-?.?/", map[string]string{"bin/app": "app-1.2/bin/app", "README": "app-1.2/README"}, ""},
		{"app-*/", nil, "app-*/ must match exactly one directory, and 2 match: app-1.2/, app-1.2x/"},
		{"none/", map[string]string{}, ""},
		{"top/", map[string]string{}, ""},
		{"./", map[string]string{"app-1.2/bin/app": "app-1.2/bin/app", "app-1.2/README": "app-1.2/README", "app-1.2x/a": "app-1.2x/a", "other/b": "other/b", "top": "top"}, ""},
	} {
		got, err := Install{From: row.from, Tree: true}.Files("linux-amd64", "v1.2", names)
		if row.err != "" {
			if err == nil || err.Error() != row.err {
				t.Errorf("%s: %v, want %s", row.from, err, row.err)
			}
			continue
		}
		must(t, err)
		if !maps.Equal(got, row.want) {
			t.Errorf("%s: %q, want %q", row.from, got, row.want)
		}
	}
}

package target

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// scaleboxd returns the target that the package scalebox-update installs.
func scaleboxd(t *testing.T) *Target {
	t.Helper()
	d := tree(t, map[string]string{DefaultDirs.Vendor + "/scaleboxd.toml": shipped(t, "targets.d/scaleboxd.toml")})
	got, err := d.Load("scaleboxd")
	must(t, err)
	return got
}

// TestAddListed adds lists of releases to the target of Scalebox.
func TestAddListed(t *testing.T) {
	for _, row := range []struct {
		list     string
		added    string // TYPE-less: FROM → TO MODE, …
		excluded string
		err      string
	}{
		{"", "", "", ""},
		// The list of Scalebox's releases: all files but a new script have a row in
		// [[install]].
		{"# Executables\nbin:scalebox-update\nbin:scalebox-rebuild-template\n\n  bin:scalebox-new \t\r\nlib:template-build.sh\nservice:scaleboxd.service",
			"scalebox-new → /usr/local/bin/scalebox-new 0755", "scalebox-update", ""},
		{"lib:a.sh\nbin:scalebox-b\n", "a.sh → /usr/local/lib/scalebox/a.sh 0644, scalebox-b → /usr/local/bin/scalebox-b 0755", "", ""},

		{"bin:scalebox-a\nbin:firecracker", "", "", `line 2 "bin:firecracker" is not among the files that the target file allows`},
		{"bin:../x", "", "", `line 1 "bin:../x" does not name a file plainly`},
		{"bin:scalebox-../x", "", "", `line 1 "bin:scalebox-../x" does not name a file plainly`},
		{"lib:/etc/passwd", "", "", `line 1 "lib:/etc/passwd" does not name a file plainly`},
		{"lib:.hidden", "", "", `line 1 "lib:.hidden" does not name a file plainly`},
		{"lib:..", "", "", `line 1 "lib:.." does not name a file plainly`},
		{"lib:-rf", "", "", `line 1 "lib:-rf" does not name a file plainly`},
		{"lib:", "", "", `line 1 "lib:" does not name a file plainly`},
		{"lib:a b", "", "", `line 1 "lib:a b" does not name a file plainly`},
		{"lib:a\x1b[2J", "", "", `line 1 "lib:a\x1b[2J" does not name a file plainly`},
		{"lib:\u0430", "", "", `line 1 "lib:\u0430" does not name a file plainly`},
		{"lib:a:b", "", "", `line 1 "lib:a:b" does not name a file plainly`},
		{"lib:" + strings.Repeat("a", 101), "", "", `line 1 "lib:` + strings.Repeat("a", 76) + `" does not name a file plainly`},
		{"service:ssh.service", "", "", `line 1 "service:ssh.service" is not among the files that the target file allows`},
		{"bin:sudo", "", "", `line 1 "bin:sudo" is not among the files that the target file allows`},
		{"etc:scalebox-x", "", "", `line 1 "etc:scalebox-x" is of a type that the target file does not have`},
		{"Bin:scalebox-x", "", "", `line 1 "Bin:scalebox-x" is of a type that the target file does not have`},
		{"scalebox-x", "", "", `line 1 "scalebox-x" is not TYPE:NAME`},
		{"\n\nbin:scalebox-a\nbin:scalebox-a", "", "", `line 4 "bin:scalebox-a" is there twice`},
		{"<html>", "", "", `line 1 "<html>" is not TYPE:NAME`},
		{"\x00\x00", "", "", `line 1 "\x00\x00" is not TYPE:NAME`},
		{strings.Repeat("#\n", 40<<10), "", "", "it is larger than 64 KiB"},
		{many(257), "", "", "it lists more than 256 files"},
	} {
		got := scaleboxd(t)
		rows := slices.Clone(got.Install)
		excluded, err := got.AddListed([]byte(row.list), "linux-amd64", "build-18")
		if message, _, _ := strings.Cut(fmt.Sprint(err), " (hint: "); message != row.err && (err != nil || row.err != "") {
			t.Errorf("%.80q:\n got %v\nwant %v", row.list, err, row.err)
		}
		var added []string
		for _, i := range got.Install[len(rows):] {
			added = append(added, fmt.Sprintf("%s → %s %#o", i.From, i.To, *i.Mode))
			if !i.Listed || i.Optional {
				t.Errorf("%q: added %+v", row.list, i)
			}
		}
		for n, i := range got.Install[:len(rows)] {
			// A file that the list names is required, even if its row says optional.
			named := slices.ContainsFunc(strings.Fields(row.list), func(line string) bool { return strings.HasSuffix(line, ":"+i.From) })
			if named && row.err == "" {
				rows[n].Optional = false
			}
		}
		if s := strings.Join(added, ", "); s != row.added || !reflect.DeepEqual(got.Install[:len(rows)], rows) {
			t.Errorf("%q: added %s, want %s; rows %+v", row.list, s, row.added, got.Install[:len(rows)])
		}
		if s := strings.Join(excluded, ", "); s != row.excluded {
			t.Errorf("%q: excluded %s, want %s", row.list, s, row.excluded)
		}
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "lib:%d\n", i)
	}
	return b.String()
}

// TestListedBesideTheList: the listed files are in the list's directory of the archive.
func TestListedBesideTheList(t *testing.T) {
	got := scaleboxd(t)
	got.Listing.File = "scalebox-{version}-{arch}/INSTALL_MANIFEST"
	const dir = "scalebox-build-18-amd64/"
	if e := got.Listing.Entry("linux-amd64", "build-18"); e != dir+"INSTALL_MANIFEST" {
		t.Errorf("the list is %s", e)
	}
	_, err := got.AddListed([]byte("bin:scalebox-new"), "linux-amd64", "build-18")
	must(t, err)
	if last := got.Install[len(got.Install)-1]; last.From != dir+"scalebox-new" {
		t.Errorf("added %+v", last)
	}
	for entry, want := range map[string]bool{
		dir + "scalebox-new": true, dir + "template-build.sh": true, "scalebox-new": false, dir + "x/scalebox-new": false, dir: false, "": false,
	} {
		if got.Listing.MayName(entry, "linux-amd64", "build-18") != want {
			t.Errorf("MayName %q: %v", entry, !want)
		}
	}
}

func TestListingCovers(t *testing.T) {
	l := scaleboxd(t).Listing
	for file, want := range map[string]bool{
		"/usr/local/bin/scalebox-new": true, "/usr/local/lib/scalebox/x": true, "/etc/systemd/system/scaleboxd.service": true,
		"/usr/local/bin/scalebox-update": false, "/usr/local/bin/sudo": false, "/usr/bin/scalebox-new": false,
		"/usr/local/bin/x/scalebox-new": false, "/etc/systemd/system/ssh.service": false,
	} {
		if l.Covers(file) != want {
			t.Errorf("%s: %v", file, !want)
		}
	}
	if (*Listing)(nil).Covers("/usr/local/bin/scalebox-new") {
		t.Error("no list covers something")
	}
}

func TestListingErrors(t *testing.T) {
	const rest = "[[install_manifest.type]]\nname = 'bin'\ndirectory = '/usr/local/bin'\nallow = ['x']\n"
	for _, row := range []struct{ toml, want string }{
		{"[install_manifest]\n", "install_manifest.file: is missing; it must be a file's name in the archive"},
		{"[install_manifest]\nfile = '../x'\n" + rest, "install_manifest.file: must be a file's name in the archive"},
		{"[install_manifest]\nfile = 'x'\n", "install_manifest.type: must be a list of tables"},
		{"[install_manifest]\nfile = 'x'\n[[install_manifest.type]]\ndirectory = '/opt/x'\nallow = ['x']", "install_manifest.type.name: is missing; it must be the name of a type"},
		{"[install_manifest]\nfile = 'x'\n[[install_manifest.type]]\nname = 'bin'\nallow = ['x']", "install_manifest.type.directory: is missing; it must be an absolute path"},
		{"[install_manifest]\nfile = 'x'\n" + strings.Replace(rest, "allow = ['x']\n", "", 1), "install_manifest.type.allow: is missing; it must be a list of names or globs"},
		{"[install_manifest]\nfile = 'x'\n" + rest + rest, "install_manifest.type.name: is there twice"},
		{"[install_manifest]\nfile = 'x'\n" + strings.Replace(rest, "'bin'", "'Bin:'", 1), "install_manifest.type.name: must be the name of a type"},
		{"[install_manifest]\nfile = 'x'\n" + strings.Replace(rest, "'/usr/local/bin'", "'/usr/local/bin/'", 1), "install_manifest.type.directory: must be an absolute path"},
		{"[install_manifest]\nfile = 'x'\n" + strings.Replace(rest, "'/usr/local/bin'", "'/home'", 1), "install_manifest.type.directory: must not be in /home"},
		{"[install_manifest]\nfile = 'x'\n" + strings.Replace(rest, "'/usr/local/bin'", "'/'", 1), "install_manifest.type.directory: must not be in / itself"},
		{"[install_manifest]\nfile = 'x'\n" + rest + "mode = '4755'", "install_manifest.type.mode: must be an octal mode"},
		{"[install_manifest]\nfile = 'x'\n" + strings.Replace(rest, "['x']", "[]", 1), "install_manifest.type.allow: must be a list of names or globs"},
		{"[install_manifest]\nfile = 'x'\n" + strings.Replace(rest, "['x']", "['[x']", 1), "install_manifest.type.allow: must be a list of names or globs"},
		{"[install_manifest]\nfile = 'x'\n" + rest + "exclude = ['a/b']", "install_manifest.type.exclude: must be a list of names or globs"},
	} {
		d := tree(t, map[string]string{adminFile: minimal + row.toml})
		_, err := d.Load("agent")
		if err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), adminFile+":") {
			t.Errorf("%s\n got %v\nwant %s", row.toml, err, row.want)
		}
	}
}

// FuzzAddListed: for each list, files are added only where the target file allows.
func FuzzAddListed(f *testing.F) {
	f.Add("bin:scalebox-new\nlib:x\n# \nservice:scaleboxd.service")
	f.Add("bin:../x\nbin:firecracker")
	like := Target{Listing: &Listing{File: "LIST", Types: []ListedType{
		{Name: "bin", Directory: "/usr/local/bin", Allow: []string{"s*"}, Exclude: []string{"sudo"}},
		{Name: "lib", Directory: "/usr/local/lib/s", Allow: []string{"*"}}}}}
	f.Fuzz(func(t *testing.T, list string) {
		got := like
		_, err := got.AddListed([]byte(list), "linux-amd64", "1")
		if err != nil && (len(got.Install) > 0 || hasControl(err.Error())) {
			t.Errorf("%v: %+v", err, got.Install)
		}
		for _, i := range got.Install {
			if !got.Listing.Covers(i.To) || !got.Listing.MayName(i.From, "linux-amd64", "1") || !cleanPath(i.To) {
				t.Errorf("added %+v", i)
			}
		}
	})
}

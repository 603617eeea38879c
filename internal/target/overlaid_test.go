package target

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOverlaid: Scalebox's installation puts its own updater in the place of the script
// that runs the package's.
func TestOverlaid(t *testing.T) {
	const theirs, ours = "/usr/local/bin/scalebox-update", "/usr/bin/scalebox-update"
	wrapper := "#!/bin/sh\n# From the package\nexec " + ours + " \"$@\"\n"
	for _, row := range []struct {
		name   string
		files  map[string]string
		link   string
		warned bool
	}{
		{"the package's", map[string]string{ours: "ours", theirs: wrapper}, "", false},
		{"none there", map[string]string{ours: "ours"}, "", false},
		{"a link", map[string]string{ours: "ours"}, ours, false},
		{"Scalebox's", map[string]string{ours: "ours", theirs: "#!/bin/bash\nset -euo pipefail\n"}, "", true},
		{"one that names it in a comment", map[string]string{ours: "ours", theirs: "#!/bin/sh\n# exec " + ours + " \"$@\"\n"}, "", true},
		{"a long one", map[string]string{ours: "ours", theirs: wrapper + strings.Repeat("#\n", 4<<10)}, "", true},
		{"a dead link", map[string]string{ours: "ours"}, "/nowhere", false},
		{"without the package", map[string]string{theirs: "#!/bin/bash\n"}, "", false},
	} {
		files := map[string]string{DefaultDirs.Vendor + "/scaleboxd.toml": shipped(t, "targets.d/scaleboxd.toml")}
		for name, content := range row.files {
			files[name] = content
		}
		d := tree(t, files)
		if row.link != "" {
			must(t, os.MkdirAll(filepath.Dir(d.Root+theirs), 0o755))
			must(t, os.Symlink(d.Root+row.link, d.Root+theirs))
		}
		got, err := d.Load("scaleboxd")
		must(t, err)
		want := ""
		if row.warned {
			want = theirs + " is not the package's, and runs instead of " + ours + " (hint: reinstall the package of " + ours + ")"
		}
		if warning := got.Overlaid(); warning != want {
			t.Errorf("%s: %q", row.name, warning)
		}
	}
}

package target

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// TestLeftOut checks that a release leaves out the same entries whether its list or only
// its manifest is known.
func TestLeftOut(t *testing.T) {
	const platform, version = "linux-amd64", "build-18"
	const list = "bin:scalebox-update\nbin:scalebox-new\n"
	of := func(list string, entries ...string) map[string]manifest.Content {
		contents := map[string]manifest.Content{"INSTALL_MANIFEST": {SHA256: manifest.Digest([]byte(list))}}
		for _, e := range entries {
			contents[e] = manifest.Content{SHA256: "sum of " + e}
		}
		return contents
	}
	for name, c := range map[string]struct {
		exclude   []string // of the type bin; nil for the target's own
		program   string   // of from_release
		installed string   // list
		contents  map[string]manifest.Content
		want      string
	}{
		"the list is known":            {installed: list, contents: of(list, "scalebox-update", "scaleboxd", "scalebox-new"), want: "scalebox-update"},
		"not in its list":              {installed: "bin:scalebox-new\n", contents: of("bin:scalebox-new\n", "scalebox-update"), want: ""},
		"another list":                 {installed: "bin:x\n", contents: of(list, "scalebox-update", "scaleboxd"), want: "scalebox-update"},
		"no list known":                {contents: of(list, "scalebox-update"), want: "scalebox-update"},
		"it runs before the swap":      {program: "scalebox-update", installed: list, contents: of(list, "scalebox-update"), want: ""},
		"it runs, another list":        {program: "scalebox-update", contents: of(list, "scalebox-update"), want: ""},
		"not in the contents":          {installed: list, contents: of(list), want: ""},
		"no list in the release":       {installed: list, contents: map[string]manifest.Content{"scalebox-update": {SHA256: "x"}}, want: ""},
		"exclude all, list is known":   {exclude: []string{"*"}, installed: list, contents: of(list, "scalebox-update", "scalebox-new", "scaleboxd", "LICENSE"), want: "scalebox-new,scalebox-update"},
		"exclude all, another list":    {exclude: []string{"*"}, contents: of(list, "scalebox-update", "scaleboxd", "x/y"), want: "scalebox-update"},
		"a list that root will refuse": {installed: "etc:x\n", contents: of("etc:x\n", "scalebox-update"), want: ""},
	} {
		got := scaleboxd(t)
		if c.exclude != nil {
			got.Listing.Types[slices.IndexFunc(got.Listing.Types, func(l ListedType) bool { return l.Name == "bin" })].Exclude = c.exclude
		}
		if c.program != "" {
			got.Hooks.FromRelease = []string{c.program}
		}
		before := len(got.Install)
		sums := got.LeftOutOf(c.installed, c.contents, platform, version)
		if names := strings.Join(slices.Sorted(maps.Keys(sums)), ","); names != c.want || len(got.Install) != before {
			t.Errorf("%s: %s, want %s", name, names, c.want)
		}
		for entry, sum := range sums {
			if sum != "sum of "+entry {
				t.Errorf("%s: %s has %s", name, entry, sum)
			}
		}
	}
}

// TestLeftOutBound: a publisher may list and ship as many excluded files as it likes.
func TestLeftOutBound(t *testing.T) {
	got := scaleboxd(t)
	got.Listing.Types[0].Exclude = []string{"*"}
	kind := got.Listing.Types[0].Name
	contents := map[string]manifest.Content{"INSTALL_MANIFEST": {SHA256: "another"}}
	var list strings.Builder
	for n := range 200 {
		contents[fmt.Sprint("x", n)] = manifest.Content{SHA256: "x"}
		for range 2 { // a line twice is one file
			fmt.Fprintf(&list, "%s:x%d\n", kind, n)
		}
	}
	if n := len(got.LeftOutOf("", contents, "linux-amd64", "v1")); n != MaxLeftOut {
		t.Errorf("%d of the manifest's", n)
	}
	excluded, err := got.AddListed([]byte(list.String()), "linux-amd64", "v1")
	if n := len(got.LeftOut(excluded, "linux-amd64", "v1")); err != nil || len(excluded) != 200 || n != MaxLeftOut {
		t.Errorf("%d of %d of the list: %v", n, len(excluded), err)
	}
	for n := range 100 {
		fmt.Fprintf(&list, "%s:y%d\n", kind, n)
	}
	if _, err := got.AddListed([]byte(list.String()), "linux-amd64", "v1"); err == nil || err.Error() != "it lists more than 256 files" {
		t.Error(err)
	}
}

// TestInsideOf: what is remembered of an archive is of its bytes, and of what the target
// file excludes.
func TestInsideOf(t *testing.T) {
	base := scaleboxd(t)
	archive := manifest.Platform{SHA256: strings.Repeat("a", 64)}
	of := base.InsideOf(archive)
	if of == "" || of != scaleboxd(t).InsideOf(archive) {
		t.Errorf("it is %q", of)
	}
	unknown := strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		archive manifest.Platform
		change  func(*Target)
		none    bool
	}{
		"another archive":           {archive: manifest.Platform{SHA256: strings.Repeat("b", 64)}},
		"by its sha512":             {archive: manifest.Platform{SHA256: unknown, SHA512: strings.Repeat("c", 128)}},
		"its digest is not known":   {archive: manifest.Platform{SHA256: unknown}, none: true},
		"the manifest shows it":     {archive: manifest.Platform{SHA256: archive.SHA256, Contents: map[string]manifest.Content{"scaleboxd": {}}}, none: true},
		"no list":                   {archive: archive, change: func(t *Target) { t.Listing = nil }, none: true},
		"another file of the list":  {archive: archive, change: func(t *Target) { t.Listing.File = "LIST" }},
		"excludes more":             {archive: archive, change: func(t *Target) { t.Listing.Types[0].Exclude = []string{"*"} }},
		"a program of it is run":    {archive: archive, change: func(t *Target) { t.Hooks.FromRelease = []string{"scalebox-update"} }},
		"nothing is excluded there": {archive: archive, change: func(t *Target) { t.Listing.Types = t.Listing.Types[1:] }, none: true},
	} {
		got := scaleboxd(t)
		if c.change != nil {
			c.change(got)
		}
		if is := got.InsideOf(c.archive); is == of || (is == "") != c.none {
			t.Errorf("%s: %q", name, is)
		}
	}
}

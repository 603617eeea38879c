package target

import (
	"slices"
	"testing"
)

// TestPlaceholders: the placeholders, for each kind of platform.
func TestPlaceholders(t *testing.T) {
	odd := archNames{"amd64": "64bit", "armv7": "arm"}
	for _, row := range []struct {
		names               archNames
		from, platform, got string
	}{
		{nil, "app-{os}-{arch}_{version}_{number}", "linux-amd64", "app-linux-amd64_v1.2.3_1.2.3"},
		{nil, "app-{machine}", "linux-amd64", "app-x86_64"},
		{nil, "app-{machine}", "linux-arm64", "app-aarch64"},
		{nil, "app-{machine}", "linux-armv7", "app-armv7l"},
		{nil, "app-{machine}", "linux-armv6", "app-armv6l"},
		{nil, "app-{machine}", "linux-386", "app-i686"},
		{nil, "app-{machine}", "linux-riscv64", "app-riscv64"},
		{nil, "app-{machine}", "linux-unheard", "app-unheard"},
		{odd, "app-{arch}-{machine}", "linux-amd64", "app-64bit-x86_64"},
		{odd, "app-{arch}-{machine}", "linux-armv7", "app-arm-armv7l"},
		{odd, "app-{arch}-{machine}", "linux-arm64", "app-arm64-aarch64"},
	} {
		if got := (Install{From: row.from, names: row.names}).Name(row.platform, "v1.2.3"); got != row.got {
			t.Errorf("%s on %s: got %s, want %s", row.from, row.platform, got, row.got)
		}
	}
}

// TestArchIsRead: source.arch holds for all names of the publisher, is merged key by key,
// and is refused where it is wrong.
func TestArchIsRead(t *testing.T) {
	got, err := tree(t, map[string]string{
		vendorFile: `unit = "agent.service"
[source]
type = "github"
repo = "o/n"
asset = "agent-{arch}.zip"
arch = { amd64 = "64bit", armv7 = "arm" }
[[install]]
from = "agent-*-{arch}/agent"
to = "/usr/local/bin/agent"
[install_manifest]
file = "{arch}/LIST"
[[install_manifest.type]]
name = "bin"
directory = "/usr/local/bin"
allow = ["agent-*"]
`,
		adminFile: "[source.arch]\narmv7 = \"armhf\"\n",
	}).Load("agent")
	must(t, err)
	for platform, want := range map[string]string{"linux-amd64": "64bit", "linux-armv7": "armhf", "linux-arm64": "arm64"} {
		asset, from, list := got.Source.AssetPattern(platform, "v1"), got.Install[0].Name(platform, "v1"), got.Listing.Entry(platform, "v1")
		if asset != "agent-"+want+".zip" || from != "agent-*-"+want+"/agent" || list != want+"/LIST" {
			t.Errorf("%s: got %s, %s, %s", platform, asset, from, list)
		}
	}
	_, err = got.AddListed([]byte("bin:agent-x"), "linux-amd64", "v1")
	must(t, err)
	if name := got.Install[1].Name("linux-amd64", "v1"); name != "64bit/agent-x" {
		t.Errorf("listed: got %s", name)
	}
}

// TestFind: a glob must match exactly one entry.
func TestFind(t *testing.T) {
	has := []string{"app-1.2.3/app", "app-1.2.3/app-cli", "app-1.2.3/LICENSE", "app-1.2.3/d/app", "x\u202ey", "a", "b", "c"}
	for _, row := range []struct{ from, entry, err string }{
		{"app-1.2.3/app", "app-1.2.3/app", ""},
		{"app-{number}/app", "app-1.2.3/app", ""},
		{"not there", "not there", ""},
		{"app-*/app", "app-1.2.3/app", ""},
		{"*/LICENS[A-F]", "app-1.2.3/LICENSE", ""},
		{"*/*/app", "app-1.2.3/d/app", ""},
		{"app", "app", ""},
		{"*pp", "", ""},
		{"*/app*", "", "*/app* must match exactly one entry, and 2 match: app-1.2.3/app, app-1.2.3/app-cli"},
		{"?", "", "? must match exactly one entry, and 3 match: a, b, c"},
		{"x*", "x\u202ey", ""},
		{"*", "", `* must match exactly one entry, and 4 match: a, b, c, "x\u202ey"`},
	} {
		i := Install{From: row.from}
		entry, err := i.Find("linux-amd64", "v1.2.3", has)
		said := ""
		if err != nil {
			said = err.Error()
		}
		if entry != row.entry || said != row.err {
			t.Errorf("%s: got %q, %v", row.from, entry, err)
		}
		if entry != "" && slices.Contains(has, entry) && !i.Matches("linux-amd64", "v1.2.3", entry) {
			t.Errorf("%s does not match %s", row.from, entry)
		}
	}
	if got := SomeNames([]string{"g", "f", "e", "d", "c", "b", "a"}); got != "a, b, c, d, e and 2 more" {
		t.Errorf("got %s", got)
	}
}

// TestProgramOfRelease: the program of a release has the publisher's names of architectures.
func TestProgramOfRelease(t *testing.T) {
	h := Hooks{FromRelease: []string{"migrate-{arch}", "--all"}, names: archNames{"amd64": "64bit"}}
	if got := h.Program("linux-amd64", "v1"); got != "migrate-64bit" {
		t.Errorf("%q", got)
	}
}

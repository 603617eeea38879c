package manifest

import "testing"

func TestMentions(t *testing.T) {
	for _, c := range []struct {
		output, version string
		want            bool
	}{
		{"machinemon v0.1.11 (commit abc, built x)", "v0.1.11", true},
		{"machinemon 0.1.11", "v0.1.11", true},
		{"machinemon v0.1.11", "0.1.11", true},
		{"node_exporter, version 1.9.10 (branch: )", "1.9.1", false},
		{"1.9.1-rc.1", "1.9.1", false},
		{"this is 1.9.1.", "1.9.1", true},
		{"scaleboxd build-18", "build-18", true},
		{"scaleboxd build-18", "build-1", false},
		{"", "1", false},
	} {
		if got := Mentions(c.output, c.version); got != c.want {
			t.Errorf("Mentions(%q, %q) = %v", c.output, c.version, got)
		}
	}
}

func TestFindVersion(t *testing.T) {
	for _, c := range []struct{ output, program, want string }{
		{"machinemon v0.1.11 (commit 0abc123, built 2026)", "machinemon-client", "v0.1.11"},
		{"node_exporter, version 1.9.0 (branch: , revision: 5)", "node_exporter", "1.9.0"},
		{"scaleboxd build-17", "scaleboxd", "build-17"},
		{"k3s 1.28.2", "k3s", "1.28.2"},
		{"h2o build-3", "h2o", "build-3"},
		{"no version at all", "x", ""},
	} {
		if got := FindVersion(c.output, c.program); got != c.want {
			t.Errorf("FindVersion(%q) = %q, want %q", c.output, got, c.want)
		}
	}
}

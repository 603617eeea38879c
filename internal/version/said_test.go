package version

import (
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestOutput has a row for each form in which programs print their version.
func TestOutput(t *testing.T) {
	var rows []testkit.Row
	for _, c := range []struct {
		printed, release string
		is               bool
		says             string
	}{
		{"machinemon v0.1.11 (commit abc, built x)", "v0.1.11", true, "v0.1.11"},
		{"machinemon v0.1.11 (commit 0abc123, built 2026)", "v0.1.11", true, "v0.1.11"},
		{"machinemon 0.1.11", "v0.1.11", true, "0.1.11"},
		{"machinemon v0.1.11", "0.1.11", true, "v0.1.11"},
		{"node_exporter, version 1.9.1 (branch: HEAD, revision: f2ec547b)\n  go version: go1.23.7\n", "v1.9.1", true, "1.9.1"},
		{"node_exporter, version 1.9.10 (branch: )", "1.9.1", false, "1.9.10"},
		{"app, version 1.9.0 (branch: HEAD, revision: 1.9.1)", "1.9.1", false, "1.9.0"},
		{"app, version 1.9.0 (branch: HEAD, revision: 1.9.1)", "1.9.0", true, "1.9.0"},
		{"this is 1.9.1.", "1.9.1", true, "1.9.1"},
		{"CoreDNS-1.11.3\nlinux/amd64, go1.22.2, a7ed346\n", "v1.11.3", true, "1.11.3"},
		{"CoreDNS-1.11.3\nlinux/amd64, go1.22.2, a7ed346\n", "v1.22.2", false, "1.11.3"},
		{"CoreDNS-1.11.3\n", "1.1.3", false, "1.11.3"},
		{"CoreDNS-1.11.3\n", "1.11.30", false, "1.11.3"},
		{"CoreDNS-1.11.30\n", "1.11.3", false, "1.11.30"},
		{"CoreDNS-11.1.3\n", "1.1.3", false, "11.1.3"},
		{"CoreDNS-1.1.3\n", "11.1.3", false, "1.1.3"},
		{"victoria-metrics-20240509-184542-tags-v1.101.0-0-gabcdef012\n", "v1.101.0", true, "v1.101.0"},
		{"victoria-metrics-20240509-184542-tags-v1.101.0-5-gabcdef012\n", "v1.101.0", false, "v1.101.0-5-gabcdef012"},
		{"victoria-metrics-20240509-184542-tags-v1.101.0-0-gabcdef012-dirty-1234\n", "v1.101.0", false, "v1.101.0-0-gabcdef012-dirty-1234"},
		{"vmselect-20240509-184542-tags-v1.101.0-cluster-0-gabcdef012\n", "v1.101.0-cluster", true, "v1.101.0-cluster"},
		{"vmselect-20240509-184542-tags-v1.101.0-cluster-0-gabcdef012\n", "v1.101.0", false, "v1.101.0-cluster"},
		{"HAProxy version 2.9.7-5742051 2024/04/05 - https://haproxy.org/\n", "2.9.7", true, "2.9.7"},
		{"HAProxy version 2.9-dev3-5742051 2024/04/05\n", "2.9", false, "2.9-dev3"},
		{"app 1.2.3-20240509", "1.2.3", false, "1.2.3-20240509"},
		{"app 1.2.3-rc1", "1.2.3", false, "1.2.3-rc1"},
		{"1.9.1-rc.1", "1.9.1", false, "1.9.1-rc.1"},
		{"app 1.2.3", "1.2.3-rc1", false, "1.2.3"},
		{"app 1.2.3-rc1-abcdef0", "v1.2.3-rc1", true, "1.2.3-rc1"},
		{"app 1.2.3~rc1", "1.2.3-rc1", true, "1.2.3~rc1"},
		{"app 1.2.3-1", "1.2.3", false, "1.2.3-1"},
		{"app v1.2.4-0.20240509184542-abcdef012345", "1.2.4", false, "v1.2.4-0.20240509184542"},
		{"nginx version: nginx/1.4.0\n", "release-1.4.0", true, "1.4.0"},
		{"release-1.4.0", "release-1.4.0", true, "1.4.0"},
		{"release-1.4.0", "v1.4.0", true, "1.4.0"},
		{"release-1.14.0", "release-1.4.0", false, "1.14.0"},
		{"ClickHouse server version 24.4.1.2088 (official build).\n", "v24.4.1.2088-stable", true, "24.4.1.2088"},
		{"v24.4.1.2088-stable ", "24.4.1.2088", true, "v24.4.1.2088-stable"},
		{"v24.4.1.2088-lts", "v24.4.1.2088-stable", false, "v24.4.1.2088-lts"},
		{"ClickHouse server version 24.4.1.20880 (official build).\n", "v24.4.1.2088-stable", false, "24.4.1.20880"},
		{"Forgejo version 7.0.3+gitea-1.21.11 (release name 7.0.3) built with GNU Make 4.4.1, go1.22.3\n", "v7.0.3", true, "7.0.3+gitea-1.21.11"},
		{"Forgejo version 7.0.3+gitea-1.21.11 (release name 7.0.3) built with GNU Make 4.4.1, go1.22.3\n", "v1.21.11", false, "7.0.3+gitea-1.21.11"},
		{"k3s version v1.28.2+k3s1 (6330a5b4)\ngo version go1.20.8\n", "v1.28.2+k3s1", true, "v1.28.2+k3s1"},
		{"k3s version v1.28.2+k3s1 (6330a5b4)\ngo version go1.20.8\n", "v1.28.2+k3s2", false, "v1.28.2+k3s1"},
		{"hugo v0.125.4-cc3574ef4f41fccbe88d9443ed066eb10867ada2+extended linux/amd64 BuildDate=unknown\n", "v0.125.4", true, "v0.125.4+extended"},
		{"envoy  version: 816188b86a0a52095b116b107f576324082c7c02/1.30.1/Clean/RELEASE/BoringSSL\n", "v1.30.1", true, "1.30.1"},
		{"Bitcoin Core version v27.0.0\n", "v27.0", true, "v27.0.0"},
		{"ffmpeg version n7.0 Copyright (c) 2000-2024\n", "n7.0", true, "n7.0"},
		{"scaleboxd build-18", "build-18", true, "build-18"},
		{"scaleboxd build-18", "build-1", false, "build-18"},
		{"scaleboxd build-18 (go1.22.2)", "build-1", false, "build-18"},
		{"minio version RELEASE.2024-05-10T01-41-38Z (commit-id=abc)\n", "RELEASE.2024-05-10T01-41-38Z", true, "RELEASE.2024-05-10T01-41-38Z"},
		{"systemd 252 (252.22-1~deb12u1)\n", "252", true, "252.22-1~deb12u1"},
		{"k3s 1.28.2", "1.28.2", true, "1.28.2"},
		{"h2o build-3", "build-3", true, "build-3"},
		{"listening on 127.0.0.1:8080, I am 1.2.3", "1.2.3", true, "1.2.3"},
		{`time="2024-05-09T18:45:40.230Z" level=info`, "40.230", false, ""},
		{"2024/05/10 12:13:14.123456 [INF] Starting", "1.2.3", false, ""},
		{`{"ts":1715280340.230,"msg":"starting"}`, "1.2.3", false, ""},
		{"no version at all", "1.2.3", false, ""},
		{"", "1", false, ""},
	} {
		o := Output{Text: c.printed, Program: "h2o"}
		rows = append(rows, testkit.Row{What: strings.TrimSpace(c.printed) + " — " + c.release, Refused: o.Problem(c.release)})
		if got := o.Is(c.release); got != c.is {
			t.Errorf("%q is %s: %v", c.printed, c.release, got)
		}
		if got := o.Version(); got != c.says {
			t.Errorf("%q says %q, want %q", c.printed, got, c.says)
		}
	}
	testkit.Accepted(t, "Printed versions", rows)
}

// TestTold shows which outputs contradict a release, and which say nothing about it.
func TestTold(t *testing.T) {
	for _, c := range []struct {
		printed, pattern, release string
		told                      bool
	}{
		{"app 1.9.0", "", "1.9.1", true},
		{"scaleboxd build-17", "", "build-18", true},
		{"app 1.9.0", "", "build-18", true},
		{"scaleboxd build-17", "", "1.2.3", false},
		{`{"ts":1715280340.230}`, "", "1.2.3", false},
		{"", "", "1.2.3", false},
		{"app x17", `x([0-9]+)`, "1.2.3", true},
		{"app y17", `x([0-9]+)`, "1.2.3", false},
	} {
		if got := (Output{Text: c.printed, Pattern: c.pattern}).Told(c.release); got != c.told {
			t.Errorf("%q, %q: %s is told: %v", c.printed, c.pattern, c.release, got)
		}
	}
}

// TestPattern selects the version where it is not the first in the output.
func TestPattern(t *testing.T) {
	const printed = "libfoo 3.2.1\nserver build 7, app=1.2.3-ent (rev 1.2.4)\n"
	for _, c := range []struct {
		pattern, release string
		is               bool
		says             string
	}{
		{`app=([^ ]+)`, "v1.2.3-ent", true, "1.2.3-ent"},
		{`app=([^ ]+)`, "v1.2.3", false, "1.2.3-ent"},
		{`app=([0-9.]+)`, "release-1.2.3", true, "1.2.3"},
		{`app=([0-9.]+)`, "1.2.30", false, "1.2.3"},
		{`build ([0-9]+)`, "7", true, "7"},
		{`build ([0-9]+)`, "build-7", false, "7"},
		{`(?m)^server (.*),`, "build 7", false, ""},
		{`app: (.*)`, "1.2.3", false, ""},
	} {
		o := Output{Text: printed, Pattern: c.pattern}
		if got := o.Is(c.release); got != c.is {
			t.Errorf("%q is %s: %v", c.pattern, c.release, got)
		}
		if got := o.Version(); got != c.says {
			t.Errorf("%q says %q, want %q", c.pattern, got, c.says)
		}
	}
	for pattern, valid := range map[string]bool{`v([0-9.]+)`: true, `(?:a|b)(c)`: true, `(?P<v>[0-9]+)`: true,
		"": false, "v[0-9]+": false, "(a)(b)": false, "(": false, `(?=x)(y)`: false} {
		if Pattern(pattern) != valid {
			t.Errorf("%q is valid: %v", pattern, !valid)
		}
	}
}

func TestProblem(t *testing.T) {
	for _, c := range []struct{ printed, pattern, release, want string }{
		{"app 1.9.1", "", "1.9.1", ""},
		{"app 1.9.0", "", "1.9.1", "says 1.9.0 instead of 1.9.1 (hint: if that is not its version, health.version_pattern selects another part of the output)"},
		{"app 1.9.0", "app (.*)", "1.9.1", "says 1.9.0 instead of 1.9.1 (hint: if that is not its version, correct health.version_pattern)"},
		{"app 1.9.0", "v(.*)", "1.9.1", "prints nothing that health.version_pattern takes for a version, and must print 1.9.1 (hint: correct the pattern, or health.version_command)"},
		{"app \x1b[31m", "app (.*)", "1.9.1", "prints nothing that health.version_pattern takes for a version, and must print 1.9.1 (hint: correct the pattern, or health.version_command)"},
		{"usage: app [-v]", "", "1.9.1", "prints no version, and must print 1.9.1 (hint: correct health.version_command; health.version_pattern selects a part of its output)"},
	} {
		if got := (Output{Text: c.printed, Pattern: c.pattern}).Problem(c.release); got != c.want {
			t.Errorf("%q: %q, want %q", c.printed, got, c.want)
		}
	}
}

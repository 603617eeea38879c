//go:build chromium

package gate

import (
	"fmt"
	"strings"
	"time"
)

// fleet returns reports for all cases that the page must show, some of them hostile.
func fleet(now time.Time) []report {
	long := strings.Repeat("very-long-", 25)
	const reason = "the new version died 3 s after its start: exit status 1: panic: open /etc/machinemon/client.toml: permission denied; goroutine 1 [running]: main.main() /src/cmd/client/main.go:71 +0x1d3; its unit was restarted 4 times in 10 s, which is the limit"
	var all []report
	add := func(host, version, result, about, reason string, change ...func(*report)) {
		r := report{ClientID: fmt.Sprintf("7d0c%04d-51be-4c1f-9f6e-0242ac120002", len(all)), Hostname: host, OS: "linux", Arch: "amd64", Version: version,
			Seen: now.Add(-time.Duration(7*len(all)) * time.Second), Result: result, ResultVersion: about, Reason: reason}
		if result != "" {
			r.Target, r.Attempted = "agent", now.Add(-time.Duration(53*len(all)+5)*time.Minute)
		}
		for _, f := range change {
			f(&r)
		}
		all = append(all, r)
	}
	rejected := func(r *report) { r.Rejected = r.ResultVersion }
	held := func(r *report) { r.Held = true }
	arm := func(r *report) { r.Arch = "arm" }

	for i := range 11 {
		add(fmt.Sprintf("web-%02d.fra.example.net", i+1), "v0.1.12", "committed", "v0.1.12", "")
	}
	for i := range 4 {
		add(fmt.Sprintf("db-%d.fra.example.net", i+1), "v0.1.11", "available", "v0.1.12", "")
	}
	add("cache-1", "v0.1.12", "committed unproven", "v0.1.12", "no probe proves it, for none ever passed here: tcp 127.0.0.1:8080: connection refused (hint: sudo machinemon-update probe agent)")
	add("edge-ams-1", "v0.1.11", "rolled back", "v0.1.12", reason, rejected)
	add("edge-ams-2", "v0.1.11", "rolled back", "v0.1.12", "tcp 127.0.0.1:8080: connection refused", rejected)
	add("edge-bom-1", "v0.1.10", "rollback failed", "v0.1.12", "cannot start machinemon-client.service: exit status 203", rejected)
	add("mail", "v0.1.11", "refused", "v0.1.12", "the signatures have expired: timestamp.json, 2026-11-19")
	add("backup", "v0.1.11", "not downloaded", "", "cannot download the manifest: dial tcp: lookup monitor.example.com: no such host")
	add("billing", "v0.1.9", "already current", "v0.1.9", "", held)
	add("lab", "v0.1.13-rc1", "committed", "v0.1.13-rc1", "", func(r *report) { r.Rejected = "v0.1.8" })
	add("pi-kitchen", "v0.1.11", "interrupted", "v0.1.12", "the power was cut in the trial", arm)
	add("misc", "v0.1.11", "misconfigured", "", "/etc/machinemon-update/targets.d/agent.toml:7: install.to: must be an absolute path")
	add("legacy", "v0.1.2", "", "", "")
	add("tests", "", "", "", "")
	add("gone", "v0.1.11", "", "", "", func(r *report) { r.Seen = now.Add(-61 * 24 * time.Hour) })
	add("plan9", "v0.1.11", "", "", "", func(r *report) { r.OS = "plan9" })
	add("macbook", "v0.1.11", "", "", "", func(r *report) { r.OS, r.Arch = "darwin", "arm64" })
	add("build", "v0.1.11", "on trial", "v0.1.12", "")
	add("build", "v0.1.11", "not attempted", "v0.1.12", "it failed before: backing off until 2026-11-29 04:00")
	add("laptop", "v0.1.11", "available", "v0.1.12", "", func(r *report) { r.Seen, r.Told = now.Add(-3*time.Hour), "v0.1.12" })
	add(`<script>alert(1)</script>"><img src=x onerror=alert(2)>`, "v0.1.11", "rolled back", "v0.1.12", `</style><style>*{display:none}</style><a href="javascript:alert(3)">`, rejected)
	add(long, "v0.1.11", "failed", "v0.1.12", strings.ReplaceAll(long, "-", ""), func(r *report) { r.ClientID = strings.Repeat("c", 128) })
	add("مضيف-الويب", "v0.1.12", "committed", "v0.1.12", "تم التحديث بنجاح (v0.1.12)")
	add("清凉山-服务器", "v0.1.12", strings.Repeat("result ", 36), "v0.1.12", "", func(r *report) { r.Attempted = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC) })
	add("", strings.Repeat("9", 64), "", "", "")
	return all
}

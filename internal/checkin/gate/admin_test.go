package gate

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const settingsPath = "/api/v1/admin/updates/settings"

func TestSwitch(t *testing.T) {
	b := newBench(t)
	b.publish()
	for _, body := range []string{"", "{}", "[]", "null", `{"directives": "off"}`, `{"directives": false, "x": 1}`, `{"Directives": false}`,
		`{"directives": false}{}`, `{"directives": true, "directives": false}`, "directives=off"} {
		if a := b.do("PUT", settingsPath, body, "Authorization: admin"); a.status != 400 || b.stopped() {
			t.Errorf("%.60q: %+v", body, a)
		}
	}
	if a := b.do("PUT", settingsPath, `{"directives": false}`, "Authorization: admin"); a.status != 200 || !strings.Contains(a.body, `"directives": false`) ||
		!strings.Contains(a.body, `"changed_by": "admin from 127.0.0.1"`) || !strings.Contains(a.body, "machinemon-release set "+b.config.DownloadDir+" --disabled") {
		t.Errorf("%+v", a)
	}
	if a := b.checkIn(request("amd64", "v0.1.11")); a.body != plainAnswer {
		t.Errorf("%+v", a)
	}
	// Another gate on the same database reads the decision.
	again := New(b.config, func(string) {})
	again.openDatabase(t.Context())
	defer again.store.Load().Close()
	if d := again.decided.Load(); !again.stopped() || d.By != "admin from 127.0.0.1" || time.Since(d.At) > time.Minute {
		t.Errorf("another gate knows %+v", d)
	}
	form := []string{"Authorization: admin", "Content-Type: application/x-www-form-urlencoded"}
	if a := b.do("POST", "/updates", "directives=on", form...); a.status != 303 || a.header.Get("Location") != "updates" || b.stopped() {
		t.Errorf("%+v", a)
	}
	for _, body := range []string{"", "directives=maybe", "directives=", "directives=off&directives=on", "directives=off&x=1", "directives=off;x", "%zz", `{"directives": false}`} {
		if a := b.do("POST", "/updates?directives=off", body, form...); a.status != 400 || !strings.HasPrefix(a.body, "cannot ") || b.stopped() {
			t.Errorf("%q: %+v", body, a)
		}
	}
	for kind, body := range map[string]string{"text/plain": "directives=off", "application/json": `{"directives": false}`, "": "directives=off",
		"multipart/form-data; boundary=x": "--x\r\nContent-Disposition: form-data; name=\"directives\"\r\n\r\noff\r\n--x--\r\n"} {
		if a := b.do("POST", "/updates", body, form[0], "Content-Type: "+kind); a.status != 400 || !strings.Contains(a.body, "as application/x-www-form-urlencoded") || b.stopped() {
			t.Errorf("%s: %+v", kind, a)
		}
	}
	large := strings.Repeat(" ", maxBody)
	for _, a := range []answer{b.do("PUT", settingsPath, large+`{"directives": false}`, form...), b.do("POST", "/updates", "directives=off&"+large, form...)} {
		if a.status != 413 || !strings.HasPrefix(a.body, "cannot read the ") || !strings.Contains(a.body, "too large") || b.stopped() {
			t.Errorf("%+v", a)
		}
	}
	for method, path := range map[string]string{"PUT": "/updates", "POST": settingsPath, "DELETE": "/api/v1/admin/updates"} {
		if a := b.do(method, path, "directives=off", form...); a.status != 405 || a.header.Get("Allow") == "" || b.stopped() {
			t.Errorf("%s %s: %+v", method, path, a)
		}
	}
}

// TestAdminBasePath checks that the admin paths exist below base_path, and without it for a
// proxy that has stripped it.
func TestAdminBasePath(t *testing.T) {
	b := newBench(t, func(c *Config) { c.BasePath = "/monitor" })
	auth := "Authorization: admin"
	for _, prefix := range []string{"/monitor", ""} {
		if a := b.do("GET", prefix+"/updates", "", auth); a.status != 200 || !strings.Contains(a.body, `action="updates"`) {
			t.Errorf("%+v", a)
		}
		if a := b.do("POST", prefix+"/updates", "directives=off", auth, "Content-Type: application/x-www-form-urlencoded"); a.header.Get("Location") != "updates" || !b.stopped() {
			t.Errorf("%+v", a)
		}
	}
	for _, path := range []string{"/monitorupdates", "/monitor/updates/", "/monitor//updates", "/monitor/x/../updates"} {
		if a := b.do("GET", path, "", auth); a.header.Get("Content-Security-Policy") != "" {
			t.Errorf("%s is the gate's: %+v", path, a)
		}
	}
}

func TestFiltersAndSorting(t *testing.T) {
	b := newBench(t)
	b.publish()
	var all []report
	for i := range maxRows + 10 {
		all = append(all, report{ClientID: fmt.Sprintf("c-%04d", i), Hostname: fmt.Sprintf("host-%04d", i), OS: "linux", Arch: "amd64",
			Version: fmt.Sprintf("v0.1.1%d", 1+boolToInt(i >= 3)), Seen: time.Unix(int64(1000000+i), 0)})
	}
	all[1].Result, all[1].Reason, all[1].Held = "rolled back", "it died", true
	if err := b.store.Load().insertReports(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]struct {
		matching int
		first    string
	}{
		"":                                 {maxRows + 10, "c-0001"}, // clients in trouble come first
		"?sort=host":                       {maxRows + 10, "c-0000"},
		"?sort=seen%3BDROP&order=asc":      {maxRows + 10, "c-0000"},
		"?sort=seen&order=desc":            {maxRows + 10, "c-0509"},
		"?sort=version&order=desc":         {maxRows + 10, "c-0509"},
		"?sort=seen;DROP TABLE":            {maxRows + 10, "c-0001"},
		"?version=v0.1.11":                 {3, "c-0001"},
		"?update=yes":                      {3, "c-0001"},
		"?update=yes&sort=host":            {3, "c-0000"},
		"?held=yes":                        {1, "c-0001"},
		"?held=no&sort=host":               {maxRows + 9, "c-0000"},
		"?update=no":                       {maxRows + 7, "c-0003"},
		"?result=trouble":                  {1, "c-0001"},
		"?result=rolled+back&update=yes":   {1, "c-0001"},
		"?q=HOST-0007":                     {1, "c-0007"},
		"?q=%27%20OR%201=1":                {0, ""},
		"?version=v0.1.11&sort=host&q=000": {3, "c-0000"},
	} {
		o := b.known(strings.ReplaceAll(query, " ", "%20"))
		first := ""
		if len(o.Clients) > 0 {
			first = o.Clients[0].ClientID
		}
		if o.Matching != want.matching || first != want.first || o.Total != maxRows+10 || len(o.Clients) != min(want.matching, maxRows) || o.Note != selfReportedNote {
			t.Errorf("%s: %d match, the first is %s, %d of %d are shown", query, o.Matching, first, len(o.Clients), o.Total)
		}
	}
	o := b.known("")
	if len(o.Versions) != 2 || o.Versions[0] != (versionView{"v0.1.12", maxRows + 7}) || o.Versions[1] != (versionView{"v0.1.11", 3}) {
		t.Errorf("the totals are %+v", o.Versions)
	}
	if err := b.store.Load().forgetOld(t.Context(), time.Unix(1000003, 0).Add(forgetAfter)); err != nil || b.known("").Total != maxRows+7 {
		t.Errorf("forgetting: %v, %d are left", err, b.known("").Total)
	}
}

// TestCaps checks that the page's size is bounded for any number of clients and
// versions.
func TestCaps(t *testing.T) {
	b := newBench(t)
	var all []report
	for i := range maxRows + 10 {
		all = append(all, report{ClientID: fmt.Sprintf("c-%04d", i), Version: fmt.Sprintf("v%d", i), Result: "failed", Seen: time.Now()})
	}
	if err := b.store.Load().insertReports(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	o := b.known("")
	if len(o.Clients) != maxRows || len(o.Versions) != maxRows || o.Trouble != maxRows+10 || o.Matching != maxRows+10 {
		t.Errorf("%d clients and %d versions are shown; %d are in trouble, %d match", len(o.Clients), len(o.Versions), o.Trouble, o.Matching)
	}
	page := b.do("GET", "/updates", "", "Authorization: admin").body
	if n := strings.Count(page, "<tr "); n != maxRows+1 || !strings.Contains(page, "; the first 500 are shown") {
		t.Errorf("%d rows", n)
	}
	for query, want := range map[string]int{strings.Repeat("x", maxQuery-2): 200, strings.Repeat("x", maxQuery-1): 414} {
		if a := b.do("GET", "/updates?q="+query, "", "Authorization: admin"); a.status != want {
			t.Errorf("%d bytes of parameters: %d", 2+len(query), a.status)
		}
	}
}

// TestTrouble checks which reports count as trouble.
func TestTrouble(t *testing.T) {
	b := newBench(t)
	b.publish()
	for i, c := range []struct {
		report
		want bool
	}{
		{report{Result: "rolled back"}, true},
		{report{Result: "refused"}, true},
		{report{Result: "committed unproven"}, true},
		{report{Result: "not downloaded", Reason: "no network"}, false},
		{report{Result: "committed"}, false},
		{report{}, false},
		{report{Reason: "the target file is broken"}, true},
		{report{Result: "already current", Rejected: "v0.1.12"}, true},
		{report{Result: "already current", Rejected: "0.1.12"}, true},
		{report{Result: "committed", Rejected: "v0.1.10"}, false}, // the published release is another one
	} {
		if got := trouble(c.report, b.release()); got != c.want {
			t.Errorf("%d: %+v: %t", i, c.report, got)
		}
	}
	if trouble(report{Result: "committed", Rejected: "v1"}, nil) {
		t.Error("without a release")
	}
}

// TestPage checks that the page escapes all text from clients.
func TestPage(t *testing.T) {
	b := newBench(t)
	b.publish()
	const evil = `"><script>alert(1)</script><a href='javascript:x'>`
	err := b.store.Load().insertReports(t.Context(), []report{
		{ClientID: evil, Hostname: evil, OS: "linux", Arch: "amd64", Version: "v0.1.11", Result: "rolled back",
			ResultVersion: evil, Reason: evil, Rejected: evil, Seen: time.Now(), Attempted: time.Now()},
		{ClientID: evil + "2", OS: evil, Arch: evil, Version: evil, Result: evil, Seen: time.Now()},
		{ClientID: "silent", Seen: time.Now()},
	})
	if err != nil {
		t.Fatal(err)
	}
	a := b.do("GET", "/updates?q=%22%3E%3Cscript%3E&version=javascript:alert(1)", "", "Authorization: admin")
	all := b.do("GET", "/updates", "", "Authorization: admin")
	for _, body := range []string{a.body, all.body} {
		if strings.Contains(body, "<script") || strings.Contains(body, "<a href='java") || strings.Contains(body, `href="javascript`) {
			t.Errorf("the page has\n%s", body)
		}
	}
	for _, want := range []string{selfReportedNote, "&lt;script&gt;alert(1)", "rolled back", "Stop updates", "3 clients, those in trouble first", "<style>" + style + "</style>",
		`<a href="?version=">unknown</a>`} {
		if !strings.Contains(all.body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if !strings.Contains(all.header.Get("Content-Security-Policy"), "style-src '"+styleHash+"'") {
		t.Errorf("%+v", all.header)
	}
	unknown := b.do("GET", "/updates?version=", "", "Authorization: admin").body
	for _, want := range []string{"1 of 3 clients match version <b><bdi>unknown</bdi></b>", `<a href="?" aria-current="true">unknown</a>`, `href="?sort=host&amp;version="`} {
		if !strings.Contains(unknown, want) {
			t.Errorf("the page lacks %q:\n%s", want, unknown)
		}
	}
	if _, err := b.decide(off, "<b>alice</b>"); err != nil {
		t.Fatal(err)
	}
	off := b.do("GET", "/updates", "", "Authorization: admin").body
	for _, want := range []string{"Let updates go on", "&lt;b&gt;alice", "<span>machinemon-release</span> <span>set</span>", " <span>--disabled</span></pre>"} {
		if !strings.Contains(off, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

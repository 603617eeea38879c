package gate

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

const settingsPath = "/api/v1/admin/updates/settings"

// Upstream alone decides who is an administrator.
func TestAccess(t *testing.T) {
	b := newBench(t)
	wrong := "Authorization: Basic YWRtaW46d3Jvbmc="
	for _, path := range []string{"/updates", "/api/v1/admin/updates", settingsPath} {
		if a := b.do("GET", path, ""); a.status != 401 || a.header.Get("WWW-Authenticate") != `Basic realm="MachineMon", charset="UTF-8"` {
			t.Errorf("%s: %+v", path, a)
		}
		if a := b.do("GET", path, "", wrong); a.status != 401 {
			t.Errorf("%s: %+v", path, a)
		}
		if a := b.do("GET", path, "", "Authorization: admin"); a.status != 200 || a.header.Get("Cache-Control") != "no-store" ||
			!strings.HasPrefix(a.header.Get("Content-Security-Policy"), "default-src 'none'") || a.header.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: %+v", path, a)
		}
	}
	// Nothing but 200 is a yes, and nobody is sent on.
	for _, status := range []int{201, 204, 302, 307, 403, 500} {
		b.up.instead(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/healthz")
			w.WriteHeader(status)
		})
		if a := b.do("GET", "/updates", "", fmt.Sprintf("Authorization: Bearer %d", status)); a.status != 401 {
			t.Errorf("%d: %+v", status, a)
		}
	}
}

// An upstream that says yes to everybody lets nobody in here.
func TestAccessOpenUpstream(t *testing.T) {
	b := newBench(t)
	b.up.instead(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>welcome") })
	if a := b.do("GET", "/updates", "", "Authorization: admin"); a.status != 502 || !strings.Contains(b.lines(), "it lets everybody see") {
		t.Errorf("%+v; it said %s", a, b.lines())
	}
}

func TestAccessCached(t *testing.T) {
	b := newBench(t)
	get := func(method, path, body string) int {
		t.Helper()
		return b.do(method, path, body, "Authorization: admin").status
	}
	get("GET", "/updates", "")
	before := b.up.count()
	get("GET", "/updates", "")
	if b.up.count() != before {
		t.Error("upstream was asked again within 30 s")
	}
	if got := get("PUT", settingsPath, `{"directives": false}`); got != 200 || b.up.count() == before {
		t.Errorf("%d, and upstream was not asked before a change", got)
	}
	// The password was changed.
	b.up.instead(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(401) })
	if got := get("PUT", settingsPath, `{"directives": true}`); got != 401 || !b.stopped() {
		t.Errorf("%d", got)
	}
	for sum := range b.admins.good {
		b.admins.good[sum] = time.Now().Add(-time.Second)
	}
	if got := get("GET", "/updates", ""); got != 401 {
		t.Errorf("%d after 30 s", got)
	}
}

func TestAccessLimited(t *testing.T) {
	b := newBench(t)
	for i := range maxFailures {
		if a := b.do("GET", "/updates", "", fmt.Sprintf("Authorization: Basic %d", i)); a.status != 401 {
			t.Errorf("%d: %+v", i, a)
		}
	}
	before := b.up.count()
	a := b.do("GET", "/updates", "", "Authorization: admin")
	if a.status != 429 || a.header.Get("Retry-After") != "60" || b.up.count() != before {
		t.Errorf("%+v", a)
	}
	b.admins.since = time.Now().Add(-time.Hour)
	if a := b.do("GET", "/updates", "", "Authorization: admin"); a.status != 200 {
		t.Errorf("%+v", a)
	}
}

func TestSwitch(t *testing.T) {
	b := newBench(t)
	b.publish()
	for _, body := range []string{"", "{}", "[]", "null", `{"directives": "off"}`, `{"directives": false, "x": 1}`, `{"Directives": false}`,
		`{"directives": false}{}`, `{"directives": true, "directives": false}`, strings.Repeat(" ", 5000) + `{"directives": false}`} {
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
	// It outlives the gate.
	again := New(b.config, func(string) {})
	again.openDatabase()
	defer again.store.Load().Close()
	if d := again.decided.Load(); !again.stopped() || d.By != "admin from 127.0.0.1" || time.Since(d.At) > time.Minute {
		t.Errorf("another gate knows %+v", d)
	}
	form := []string{"Authorization: admin", "Content-Type: application/x-www-form-urlencoded"}
	if a := b.do("POST", "/updates", "directives=on", form...); a.status != 303 || a.header.Get("Location") != "/updates" || b.stopped() {
		t.Errorf("%+v", a)
	}
	if a := b.do("POST", "/updates", "directives=maybe", form...); a.status != 400 {
		t.Errorf("%+v", a)
	}
	for method, path := range map[string]string{"PUT": "/updates", "POST": settingsPath, "DELETE": "/api/v1/admin/updates"} {
		if a := b.do(method, path, "directives=off", form...); a.status != 405 || a.header.Get("Allow") == "" || b.stopped() {
			t.Errorf("%s %s: %+v", method, path, a)
		}
	}
}

// Another site's page cannot have the administrator's browser stop updates.
func TestCrossOrigin(t *testing.T) {
	b := newBench(t)
	for _, header := range []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Origin: https://evil.example", "Origin: null"} {
		for method, path := range map[string]string{"POST": "/updates", "PUT": settingsPath} {
			a := b.do(method, path, "directives=off", "Authorization: admin", "Content-Type: application/x-www-form-urlencoded", header)
			if a.status != 403 || b.stopped() {
				t.Errorf("%s with %s: %+v", method, header, a)
			}
		}
	}
	if a := b.do("POST", "/updates", "directives=off", "Authorization: admin", "Content-Type: application/x-www-form-urlencoded", "Sec-Fetch-Site: same-origin"); a.status != 303 || !b.stopped() {
		t.Errorf("%+v", a)
	}
}

func TestFiltersAndSorting(t *testing.T) {
	b := newBench(t)
	b.publish()
	var all []report
	for i := range maxRows + 10 {
		all = append(all, report{ClientID: fmt.Sprintf("c-%04d", i), Hostname: fmt.Sprintf("host-%04d", i), OS: "linux", Arch: "amd64",
			Version: map[bool]string{true: "v0.1.11", false: "v0.1.12"}[i < 3], Seen: time.Unix(int64(1000000+i), 0)})
	}
	all[1].Result, all[1].Reason, all[1].Held = "rolled back", "it died", true
	if err := b.store.Load().record(all); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]struct {
		matching int
		first    string
	}{
		"":                                 {maxRows + 10, "c-0000"},
		"?sort=seen&order=desc":            {maxRows + 10, "c-0509"},
		"?sort=version&order=desc":         {maxRows + 10, "c-0003"},
		"?sort=seen;DROP TABLE":            {maxRows + 10, "c-0000"},
		"?version=v0.1.11":                 {3, "c-0000"},
		"?update=yes":                      {3, "c-0000"},
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
		if o.Matching != want.matching || first != want.first || o.Total != maxRows+10 || len(o.Clients) != min(want.matching, maxRows) || o.Note != selfReported {
			t.Errorf("%s: %d match, the first is %s, %d of %d are shown", query, o.Matching, first, len(o.Clients), o.Total)
		}
	}
	o := b.known("")
	if len(o.Versions) != 2 || o.Versions[0] != (versionView{"v0.1.12", maxRows + 7}) || o.Versions[1] != (versionView{"v0.1.11", 3}) {
		t.Errorf("the totals are %+v", o.Versions)
	}
	if err := b.store.Load().forgetOld(time.Unix(1000003, 0).Add(forget)); err != nil || b.known("").Total != maxRows+7 {
		t.Errorf("forgetting: %v, %d are left", err, b.known("").Total)
	}
}

// What clients told is text in the page, whatever it is.
func TestPage(t *testing.T) {
	b := newBench(t)
	b.publish()
	const evil = `"><script>alert(1)</script><a href='javascript:x'>`
	err := b.store.Load().record([]report{{ClientID: evil, Hostname: evil, OS: "linux", Arch: "amd64", Version: "v0.1.11", Result: "rolled back",
		ResultVersion: evil, Reason: evil, Rejected: evil, Seen: time.Now(), Attempted: time.Now()}})
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
	for _, want := range []string{selfReported, "&lt;script&gt;alert(1)", "rolled back", "Stop updates", "1 clients, those in trouble first", "<style>" + style + "</style>"} {
		if !strings.Contains(all.body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if !strings.Contains(all.header.Get("Content-Security-Policy"), "style-src '"+styleHash+"'") {
		t.Errorf("%+v", all.header)
	}
	if _, err := b.decide(false, "<b>somebody</b>"); err != nil {
		t.Fatal(err)
	}
	off := b.do("GET", "/updates", "", "Authorization: admin").body
	for _, want := range []string{"Let updates go on", "&lt;b&gt;somebody", "machinemon-release set"} {
		if !strings.Contains(off, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

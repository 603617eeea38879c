package gate

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestCrossOrigin checks that a page of another site cannot turn the switch.
func TestCrossOrigin(t *testing.T) {
	b := newBench(t)
	for _, header := range []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Origin: https://evil.example", "Origin: null"} {
		for method, path := range map[string]string{"POST": "/updates", "PUT": settingsPath} {
			body := map[string]string{"POST": "directives=off", "PUT": `{"directives": false}`}[method]
			a := b.do(method, path, body, "Authorization: admin", "Content-Type: application/x-www-form-urlencoded", header)
			if a.status != 403 || b.stopped() || b.up.count() != 0 {
				t.Errorf("%s with %s: %+v", method, header, a)
			}
		}
	}
	if a := b.do("POST", "/updates", "directives=off", "Authorization: admin", "Content-Type: application/x-www-form-urlencoded", "Sec-Fetch-Site: same-origin"); a.status != 303 || !b.stopped() {
		t.Errorf("%+v", a)
	}
}

// TestHeaders checks that errors have the same security headers as the page.
func TestHeaders(t *testing.T) {
	b := newBench(t)
	auth := "Authorization: admin"
	look := func(want int, method, path, body string, header ...string) {
		t.Helper()
		a := b.do(method, path, body, header...)
		if a.status != want {
			t.Errorf("%d, want %d: %+v", a.status, want, a)
		}
		for name, value := range map[string]string{"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
			"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin"} {
			if got := a.header.Get(name); got != value {
				t.Errorf("%d: %s is %q", want, name, got)
			}
		}
		policy := strings.Split(a.header.Get("Content-Security-Policy"), "; ")
		for _, want := range []string{"default-src 'none'", "style-src '" + styleHash + "'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"} {
			if !slices.Contains(policy, want) {
				t.Errorf("%d: the policy %q lacks %s", a.status, policy, want)
			}
		}
	}
	look(200, "GET", "/updates", "", auth)
	look(200, "GET", "/api/v1/admin/updates", "", auth)
	look(303, "POST", "/updates", "directives=on", auth, "Content-Type: application/x-www-form-urlencoded")
	look(400, "PUT", settingsPath, "{}", auth)
	look(401, "GET", "/updates", "")
	look(403, "POST", "/updates", "", auth, "Sec-Fetch-Site: cross-site")
	look(405, "DELETE", "/updates", "")
	look(413, "PUT", settingsPath, strings.Repeat(" ", 5000), auth)
	look(414, "GET", "/updates?q="+strings.Repeat("x", 5000), "", auth)
	s := b.store.Swap(nil)
	look(503, "GET", "/updates", "", auth)
	look(503, "GET", "/api/v1/admin/updates", "", auth)
	look(503, "PUT", settingsPath, `{"directives": false}`, auth)
	b.store.Store(s)
	for i := range maxFailures {
		b.guess("", i)
	}
	host := netip.MustParsePrefix("127.0.0.1/32")
	b.admins.queues[host] = &queue{waiting: maxWaiting}
	look(429, "PUT", settingsPath, "", "Authorization: another")
}

// TestLookingChangesNothing checks that GET and HEAD never turn the switch.
func TestLookingChangesNothing(t *testing.T) {
	b := newBench(t)
	for _, method := range []string{"GET", "HEAD"} {
		for _, path := range []string{"/updates", "/api/v1/admin/updates", settingsPath} {
			a := b.do(method, path+"?directives=off&_method=PUT", "directives=off", "Authorization: admin",
				"Content-Type: application/x-www-form-urlencoded", "X-HTTP-Method-Override: PUT")
			if a.status != 200 || b.stopped() || (a.body == "") != (method == "HEAD") || a.header.Get("Content-Type") == "" {
				t.Errorf("%s %s: %+v", method, path, a)
			}
		}
		if a := b.do(method, "/updates", ""); a.status != 401 {
			t.Errorf("%s: %+v", method, a)
		}
	}
}

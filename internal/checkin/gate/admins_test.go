package gate

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clock sets the clock of the gate's admins to a time that the test can change.
func (b *bench) clock() *time.Time {
	now := time.Now()
	b.admins.now = func() time.Time { return now }
	return &now
}

// behind makes the test a trusted proxy, so that it can claim any client address.
func behind(c *Config) { c.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }

// guess requests the page with a wrong password, from a client address.
func (b *bench) guess(from string, n int) int {
	b.t.Helper()
	return b.do("GET", "/updates", "", fmt.Sprintf("Authorization: Basic %d", n), "X-Forwarded-For: "+from).status
}

// TestAccess checks that upstream alone decides which credentials are an administrator's.
func TestAccess(t *testing.T) {
	b := newBench(t)
	for _, path := range []string{"/updates", "/api/v1/admin/updates", settingsPath} {
		if a := b.do("GET", path, ""); a.status != 401 || a.header.Get("WWW-Authenticate") != `Basic realm="MachineMon", charset="UTF-8"` {
			t.Errorf("%s: %+v", path, a)
		}
		if b.up.count() != 0 {
			t.Error("upstream was asked without a password")
		}
	}
	for i, path := range []string{"/updates", "/api/v1/admin/updates", settingsPath} {
		if got := b.guess("", i); got != 401 {
			t.Errorf("%s: %d", path, got)
		}
		if a := b.do("GET", path, "", "Authorization: admin"); a.status != 200 {
			t.Errorf("%s: %+v", path, a)
		}
	}
	before := b.up.count()
	if a := b.do("GET", "/updates", "", "Authorization: Basic "+strings.Repeat("x", 5000)); a.status != 401 || b.up.count() != before {
		t.Errorf("%+v", a)
	}
}

// TestAccessOnlyUpstream checks that only 200 is a yes, and that redirects get no
// password.
func TestAccessOnlyUpstream(t *testing.T) {
	elsewhere := newUpstream(t)
	b := newBench(t)
	for status, want := range map[int]int{201: 502, 202: 502, 204: 502, 206: 502, 301: 502, 302: 502, 307: 502, 308: 502, 404: 502, 429: 502, 500: 502, 401: 401, 403: 401} {
		for _, location := range []string{"/healthz", elsewhere.URL + "/healthz"} {
			b.up.instead(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", location)
				w.WriteHeader(status)
			})
			before := b.up.count()
			if a := b.do("GET", "/updates", "", "Authorization: admin"); a.status != want {
				t.Errorf("%d: %+v", status, a)
			}
			if n := b.up.count() - before; n != 1 {
				t.Errorf("%d: upstream was asked %d times", status, n)
			}
		}
	}
	if elsewhere.count() != 0 {
		t.Error("another server was asked")
	}
	if got := b.lines(); strings.Count(got, "cannot ask the MachineMon server whether a user is an administrator: it answers ") < 1 || !strings.Contains(got, "(hint: check upstream and base_path)") {
		t.Errorf("it said\n%s", got)
	}
	if b.admins.client.Transport.(*http.Transport).Proxy != nil {
		t.Error("a proxy of the environment is told the password")
	}
	b.up.instead(nil)
	if got := b.do("GET", "/updates", "", "Authorization: admin").status; got != 200 {
		t.Errorf("then: %d", got)
	}
	r, _ := b.up.last()
	if r.URL.Path != "/api/v1/admin/settings" || r.Header.Get("Authorization") != "" {
		t.Errorf("upstream was asked last for %s with %v", r.URL, r.Header)
	}
}

// TestAccessOpenUpstream checks that an upstream that accepts all requests is not
// believed.
func TestAccessOpenUpstream(t *testing.T) {
	b := newBench(t)
	b.up.instead(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>welcome") })
	if a := b.do("GET", "/updates", "", "Authorization: admin"); a.status != 502 || !strings.Contains(b.lines(), "without a password (hint: ") {
		t.Errorf("%+v; it said %s", a, b.lines())
	}
}

// TestAccessUpstreamAway checks that an outage of upstream is logged each time that it
// begins, but not for a caller that disconnected.
func TestAccessUpstreamAway(t *testing.T) {
	b := newBench(t)
	away := func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }
	for range 2 {
		b.up.instead(away)
		for range 3 * maxFailures {
			if a := b.do("GET", "/updates", "", "Authorization: Basic x"); a.status != 502 {
				t.Fatalf("%+v", a) // it does not count as a wrong password
			}
		}
		b.up.instead(nil)
		if got := b.do("PUT", settingsPath, `{"directives": true}`, "Authorization: admin").status; got != 200 {
			t.Errorf("then: %d", got)
		}
	}
	if got := b.lines(); strings.Count(got, "cannot ask the MachineMon server whether a user is an administrator: ") != 2 || strings.Count(got, "answers again whether a user is an administrator") != 2 {
		t.Errorf("it said\n%s", got)
	}
	said := b.lines()
	gone, leave := context.WithCancel(t.Context())
	b.up.instead(func(w http.ResponseWriter, r *http.Request) { leave(); <-r.Context().Done() })
	r := httptest.NewRequestWithContext(gone, "GET", "/updates", nil)
	r.Header.Set("Authorization", "Basic x")
	if b.admins.check(r); b.lines() != said || len(b.admins.failures) != 0 {
		t.Errorf("of a caller who left, it said\n%s", b.lines())
	}
}

// TestAccessCached checks that a yes is cached for 30 s, for reads only, and a no never.
func TestAccessCached(t *testing.T) {
	b := newBench(t)
	now := b.clock()
	asked := func(method, path, body string, want int) bool {
		t.Helper()
		before := b.up.count()
		if got := b.do(method, path, body, "Authorization: admin").status; got != want {
			t.Errorf("%s %s: %d, want %d", method, path, got, want)
		}
		return b.up.count() != before
	}
	asked("GET", "/updates", "", 200)
	*now = now.Add(acceptedFor - time.Millisecond)
	if asked("GET", "/updates", "", 200) || asked("HEAD", settingsPath, "", 200) {
		t.Error("upstream was asked again within 30 s")
	}
	if *now = now.Add(time.Millisecond); !asked("GET", "/updates", "", 200) {
		t.Error("upstream was not asked after 30 s")
	}
	if !asked("PUT", settingsPath, `{"directives": false}`, 200) {
		t.Error("upstream was not asked before a change")
	}
	// The password was changed.
	b.up.instead(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(401) })
	if !asked("PUT", settingsPath, `{"directives": true}`, 401) || !b.stopped() {
		t.Error("a change with an old password")
	}
	if !asked("POST", "/updates", "directives=on", 401) || !b.stopped() {
		t.Error("a change with an old password")
	}
	// The refusal has removed the accepted password from the cache, and is not cached.
	for range 2 {
		if !asked("GET", "/updates", "", 401) {
			t.Error("upstream was not asked after a no")
		}
	}
	b.up.instead(nil)
	asked("GET", "/updates", "", 200)
	if got := b.guess("", 1); got != 401 {
		t.Errorf("another password: %d", got)
	}
}

// TestAccessHash checks that each gate's hash has its own key, so that a hash cannot be
// found in another gate's memory or computed from a list of passwords.
func TestAccessHash(t *testing.T) {
	b, c := newBench(t), newBench(t)
	const given = "Basic YWRtaW46Y29ycmVjdCBob3JzZQ=="
	if b.admins.hash(given) == c.admins.hash(given) || b.admins.hash(given) == sha256.Sum256([]byte(given)) {
		t.Error("the hash has no key of its own")
	}
	b.do("GET", "/updates", "", "Authorization: "+given)
	if _, there := b.admins.good[b.admins.hash(given)]; !there || len(b.admins.good) != 1 {
		t.Errorf("known are %x", b.admins.good)
	}
	for i := range maxEntries + 10 {
		b.admins.cache(b.admins.hash(fmt.Sprint(i)))
	}
	if len(b.admins.good) > maxEntries {
		t.Errorf("%d are remembered", len(b.admins.good))
	}
}

// TestAccessLimited checks the limit of wrong passwords per minute and address, and that
// further ones are checked one after the other, with a pause before each.
func TestAccessLimited(t *testing.T) {
	b := newBench(t, behind)
	now := b.clock()
	const pause = 100 * time.Millisecond
	b.admins.pause = pause
	for i := range maxFailures {
		if got := b.guess("203.0.113.1", i); got != 401 {
			t.Errorf("%d: %d", i, got)
		}
		b.guess(fmt.Sprintf("2001:db8::%x", i), i) // one host with many IPv6 addresses
	}
	slow := func(from string, n, times int) bool {
		t.Helper()
		begun := time.Now()
		var all sync.WaitGroup
		for i := range times {
			all.Go(func() {
				if got := b.guess(from, n+i); got != 401 {
					t.Errorf("%s: %d", from, got)
				}
			})
		}
		all.Wait()
		return time.Since(begun) >= time.Duration(times)*pause
	}
	for i, from := range []string{"203.0.113.1", "2001:db8::ffff", "::ffff:203.0.113.1"} {
		if !slow(from, 100*i, 5) {
			t.Errorf("%s guesses faster", from)
		}
	}
	b.admins.pause = time.Hour
	for _, from := range []string{"203.0.113.2", "2001:db8:0:1::1"} {
		if got := b.guess(from, 1); got != 401 {
			t.Errorf("another address: %d", got)
		}
	}
	b.admins.pause = pause
	*now = now.Add(time.Minute - time.Millisecond)
	if !slow("203.0.113.1", 1, 1) {
		t.Error("it guesses faster before the minute is over")
	}
	*now = now.Add(time.Millisecond)
	b.admins.pause = time.Hour
	if got := b.guess("203.0.113.1", 1); got != 401 {
		t.Errorf("after a minute: %d", got)
	}
}

// TestOwnerBehindGuesses checks that wrong passwords do not keep an administrator out who
// has the same address: not at all if upstream has accepted the password before, and else
// for a pause.
func TestOwnerBehindGuesses(t *testing.T) {
	for _, known := range []bool{true, false} {
		b := newBench(t)
		b.clock()
		b.admins.pause = 200 * time.Millisecond
		if known {
			b.do("GET", settingsPath, "", "Authorization: admin")
			b.admins.pause = time.Hour
		}
		for i := range maxFailures {
			b.guess("", i)
		}
		a := b.do("PUT", settingsPath, `{"directives": false}`, "Authorization: admin")
		if a.status != 200 || !b.stopped() {
			t.Errorf("accepted before: %t: %+v", known, a)
		}
		if !known {
			continue
		}
		// While as many as may wait do so, too.
		gone, leave := context.WithCancel(t.Context())
		defer leave()
		var guesses sync.WaitGroup
		for i := range maxWaiting + 3 {
			guesses.Go(func() {
				r := httptest.NewRequestWithContext(gone, "GET", "/updates", nil)
				r.RemoteAddr = "127.0.0.1:1"
				r.Header.Set("Authorization", fmt.Sprint("Basic w", i))
				b.admins.check(r)
			})
		}
		waits(t, "the guesses", func() bool {
			b.admins.mu.Lock()
			defer b.admins.mu.Unlock()
			q := b.admins.queues[netip.MustParsePrefix("127.0.0.1/32")]
			return q != nil && q.waiting == maxWaiting
		})
		if a := b.do("PUT", settingsPath, `{"directives": true}`, "Authorization: admin"); a.status != 200 || b.stopped() {
			t.Errorf("beside guesses: %+v", a)
		}
		// A password that upstream refuses now is a guess like others.
		b.up.instead(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(401) })
		for _, want := range []int{401, 429} {
			if got := b.do("PUT", settingsPath, `{"directives": false}`, "Authorization: admin").status; got != want {
				t.Errorf("refused: %d, want %d", got, want)
			}
		}
		leave()
		guesses.Wait()
		if len(b.admins.queues) > 0 {
			t.Errorf("%d queues are left", len(b.admins.queues))
		}
	}
}

// TestAccessLimitedStill checks that a right password does not reset the count.
func TestAccessLimitedStill(t *testing.T) {
	b := newBench(t)
	b.clock()
	for i := range maxFailures {
		b.guess("", i)
		if i < maxFailures-1 {
			b.do("PUT", settingsPath, `{"directives": true}`, "Authorization: admin")
		}
	}
	if n := b.admins.failures[netip.MustParsePrefix("127.0.0.1/32")]; n != maxFailures {
		t.Errorf("%d failures", n)
	}
}

// TestAccessLimitedAtOnce checks that parallel guesses are limited as sequential ones are.
func TestAccessLimitedAtOnce(t *testing.T) {
	b := newBench(t)
	b.admins.pause = time.Hour
	gone, leave := context.WithCancel(t.Context())
	defer leave()
	full, all10 := make(chan bool), make(chan bool)
	var asked atomic.Int32
	b.up.instead(func(w http.ResponseWriter, r *http.Request) {
		switch asked.Add(1) {
		case maxFailures:
			close(all10)
		case maxFailures + 1:
			close(full)
		}
		select { // until each request was let through, refused or has to wait
		case <-full:
		case <-r.Context().Done():
		}
		w.WriteHeader(401)
	})
	var refused atomic.Int32
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			r := httptest.NewRequestWithContext(gone, "GET", "/updates", nil)
			r.Header.Set("Authorization", fmt.Sprint("Basic ", i))
			if b.admins.check(r) == 429 && refused.Add(1) == 40-maxWaiting {
				<-all10
				close(full)
				leave()
			}
		})
	}
	all.Wait()
	if n := asked.Load(); n != maxFailures {
		t.Errorf("upstream was asked %d times", n)
	}
}

// TestAccessRoom checks that addresses without failures take no memory, and that
// addresses above maxEntries share one account.
func TestAccessRoom(t *testing.T) {
	b := newBench(t)
	b.clock()
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	for i := range maxEntries {
		account, ok := b.admins.reserve(address(i))
		if b.admins.release(account); !ok || len(b.admins.failures) != 0 {
			t.Fatalf("%d: %t, %v", i, ok, b.admins.failures)
		}
	}
	for i := range maxEntries {
		b.admins.reserve(address(i))
	}
	for i := range 2 * maxFailures {
		if _, ok := b.admins.reserve(address(maxEntries + i)); ok != (i < maxFailures) {
			t.Errorf("stranger %d: %t", i, ok)
		}
	}
	if _, ok := b.admins.reserve(address(1)); !ok || len(b.admins.failures) > maxEntries+1 {
		t.Errorf("%t, %d accounts", ok, len(b.admins.failures))
	}
}

package gate

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

const (
	believed    = 30 * time.Second // how long upstream's yes counts, for looking
	maxFailures = 10               // of an address, a minute
	maxKnown    = 4096             // addresses and credentials that are remembered
)

// admins finds out who is an administrator, by asking upstream with the caller's own
// credentials. They are never kept: of those that were good, a keyed hash is.
type admins struct {
	gate   *Gate
	client *http.Client
	key    [32]byte

	mu       sync.Mutex
	good     map[[32]byte]time.Time // until when
	failures map[netip.Prefix]int
	since    time.Time // when failures were begun
}

func newAdmins(g *Gate) *admins {
	a := &admins{gate: g, good: map[[32]byte]time.Time{}, failures: map[netip.Prefix]int{}}
	rand.Read(a.key[:]) // never fails
	a.client = &http.Client{
		Transport: g.proxy.Transport,
		Timeout:   10 * time.Second,
		// Wherever upstream would send an admin, that is no yes.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return a
}

// check returns the HTTP status that the caller deserves; 200 is for administrators.
// Before a change upstream is always asked.
func (a *admins) check(r *http.Request, change bool) int {
	given := r.Header.Get("Authorization")
	if given == "" || len(given) > 4096 {
		return http.StatusUnauthorized
	}
	client, _ := a.gate.client(r)
	sum := a.hash(given)
	if !change && a.knows(sum) {
		return http.StatusOK
	}
	if a.limited(client, 0) {
		return http.StatusTooManyRequests
	}
	status, err := a.ask(r.Context(), r.Host, client, given)
	if err == nil && status == http.StatusOK {
		// An upstream that says yes to everybody says nothing: a base_path that is
		// wrong leads to a page which greets all.
		status, err = a.ask(r.Context(), r.Host, client, "")
		if err == nil && status == http.StatusOK {
			err = errors.New("it lets everybody see /api/v1/admin/settings (hint: check upstream and base_path)")
		} else if err == nil {
			a.remember(sum)
			return http.StatusOK
		}
	}
	if err != nil {
		a.gate.once.say("admin", "cannot ask the MachineMon server who is an administrator: "+err.Error())
		return http.StatusBadGateway
	}
	a.gate.count.denied.Add(1)
	a.limited(client, 1)
	return http.StatusUnauthorized
}

func (a *admins) ask(ctx context.Context, host string, client netip.Addr, authorization string) (int, error) {
	u := *a.gate.config.Upstream
	u.Path = a.gate.config.BasePath + "/api/v1/admin/settings"
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0, err
	}
	q.Host = host
	q.Header.Set("X-Real-Ip", client.String())
	q.Header.Set("X-Forwarded-For", client.String())
	if authorization != "" {
		q.Header.Set("Authorization", authorization)
	}
	resp, err := a.client.Do(q)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

func (a *admins) hash(authorization string) (sum [32]byte) {
	mac := hmac.New(sha256.New, a.key[:])
	mac.Write([]byte(authorization))
	return [32]byte(mac.Sum(nil))
}

func (a *admins) knows(sum [32]byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Before(a.good[sum])
}

func (a *admins) remember(sum [32]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.good) >= maxKnown {
		clear(a.good)
	}
	a.good[sum] = time.Now().Add(believed)
}

// limited counts failures of an address, and tells whether it has had enough of
// them. Of IPv6, a host may have a whole /64.
func (a *admins) limited(client netip.Addr, failures int) bool {
	bits := client.BitLen()
	if client.Is6() {
		bits = 64
	}
	network, _ := client.Prefix(bits) // the zero one for an address that is none
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); now.Sub(a.since) > time.Minute {
		clear(a.failures)
		a.since = now
	}
	if _, known := a.failures[network]; !known && len(a.failures) >= maxKnown {
		network = netip.Prefix{} // the rest share one account
	}
	a.failures[network] += failures
	return a.failures[network] >= maxFailures
}

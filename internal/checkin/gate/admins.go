package gate

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
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
	now    func() time.Time
	key    [32]byte

	mu       sync.Mutex
	good     map[[32]byte]time.Time // until when
	failures map[netip.Prefix]int   // and what is being asked
	since    time.Time              // when failures were begun
}

func newAdmins(g *Gate) *admins {
	a := &admins{gate: g, now: time.Now, good: map[[32]byte]time.Time{}, failures: map[netip.Prefix]int{}}
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
	sum := a.hash(given)
	if !change && a.knows(sum) {
		return http.StatusOK
	}
	client, _ := a.gate.client(r)
	account, ok := a.begin(client)
	if !ok {
		return http.StatusTooManyRequests
	}
	good, err := a.ask(r, client, given)
	if err != nil {
		a.forgive(account)
		// Of a caller that left, there is nothing to learn.
		if r.Context().Err() == nil {
			a.gate.once.say("admin", "cannot ask the MachineMon server who is an administrator: "+err.Error())
		}
		return http.StatusBadGateway
	}
	a.gate.once.over("admin", "the MachineMon server tells again who is an administrator")
	if !good {
		a.forget(sum)
		a.gate.count.denied.Add(1)
		return http.StatusUnauthorized
	}
	a.forgive(account)
	a.remember(sum)
	return http.StatusOK
}

// ask tells whether upstream takes these credentials for an administrator's. An
// upstream that says yes to everybody says nothing: a base_path that is wrong leads to
// a page which greets all. Nor does one that says neither yes nor no.
func (a *admins) ask(r *http.Request, client netip.Addr, authorization string) (good bool, err error) {
	const hint = "(hint: check upstream and base_path)"
	switch status, err := a.get(r.Context(), r.Host, client, authorization); {
	case err != nil:
		return false, err
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return false, nil
	case status != http.StatusOK:
		return false, fmt.Errorf("it answers %d to /api/v1/admin/settings %s", status, hint)
	}
	status, err := a.get(r.Context(), r.Host, client, "")
	if err == nil && status == http.StatusOK {
		err = errors.New("it lets everybody see /api/v1/admin/settings " + hint)
	}
	return err == nil, err
}

func (a *admins) get(ctx context.Context, host string, client netip.Addr, authorization string) (int, error) {
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
	return a.now().Before(a.good[sum])
}

func (a *admins) remember(sum [32]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.good) >= maxKnown {
		clear(a.good)
	}
	a.good[sum] = a.now().Add(believed)
}

// forget ends what upstream has taken back.
func (a *admins) forget(sum [32]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.good, sum)
}

// begin tells whether an address may have upstream asked: not if it had enough
// failures. What is being asked counts as one until it turns out otherwise, else any
// number of guesses could be made at once. Of IPv6, a host may have a whole /64.
func (a *admins) begin(client netip.Addr) (account netip.Prefix, ok bool) {
	bits := client.BitLen()
	if client.Is6() {
		bits = 64
	}
	account, _ = client.Prefix(bits) // the zero one for an address that is none
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := a.now(); now.Sub(a.since) >= time.Minute {
		clear(a.failures)
		a.since = now
	}
	if _, known := a.failures[account]; !known && len(a.failures) >= maxKnown {
		account = netip.Prefix{} // the rest share one account
	}
	if a.failures[account] >= maxFailures {
		return account, false
	}
	a.failures[account]++
	return account, true
}

// forgive takes back one failure. An account without any takes no room.
func (a *admins) forgive(account netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failures[account]--; a.failures[account] <= 0 {
		delete(a.failures, account)
	}
}

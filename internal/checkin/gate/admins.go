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
	acceptedFor = 30 * time.Second // time for which accepted credentials are cached for reads
	maxFailures = 10               // per minute and address
	maxEntries  = 4096             // in each of good and failures
)

// An address with maxFailures is not locked out, because its owner may be behind the same
// web server as the attacker: it may still have one password checked after each pause.
// So in a minute an address can try 10 passwords at once and 10 by waiting, which is
// 28,800 a day. That finds one of a million passwords in 17 days on average, and one of
// 40 random bits in 52,000 years. maxWaiting bounds the wait to 48 s, less than the usual
// timeout of a web server.
const (
	pause      = 6 * time.Second
	maxWaiting = 8
)

// admins decides whether a caller is an administrator, by asking upstream with the
// caller's credentials. It keeps no credentials, only a keyed hash of accepted ones. Their
// owner need not wait, however many wrong passwords others send from the same address.
type admins struct {
	gate   *Gate
	client *http.Client
	now    func() time.Time
	key    [32]byte
	pause  time.Duration

	mu          sync.Mutex
	good        map[[32]byte]time.Time // hashes of accepted credentials, and until when upstream need not be asked
	failures    map[netip.Prefix]int   // refusals since windowStart, and unanswered questions
	windowStart time.Time
	queues      map[netip.Prefix]*queue // of addresses with maxFailures
}

// queue is where requests wait until one after the other has paused.
type queue struct {
	turn    chan struct{} // holds one value while one of them pauses
	waiting int
}

func newAdmins(g *Gate) *admins {
	a := &admins{gate: g, now: time.Now, pause: pause, good: map[[32]byte]time.Time{}, failures: map[netip.Prefix]int{}, queues: map[netip.Prefix]*queue{}}
	rand.Read(a.key[:]) // never fails
	a.client = &http.Client{
		Transport: g.proxy.Transport,
		Timeout:   10 * time.Second,
		// A redirect is not a yes, so it is not followed.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return a
}

// check returns the HTTP status for a caller: 200 for an administrator, else 401, 429
// or 502. Requests that change something (PUT, POST) never use the cache.
func (a *admins) check(r *http.Request) int {
	given := r.Header.Get("Authorization")
	if given == "" || len(given) > 4096 {
		return http.StatusUnauthorized
	}
	sum := a.hash(given)
	if r.Method != http.MethodPut && r.Method != http.MethodPost && a.isCached(sum) {
		return http.StatusOK
	}
	client, _ := a.gate.clientAddr(r)
	release := func() {}
	if account, ok := a.reserve(client); ok {
		release = func() { a.release(account) }
	} else if !a.isKnown(sum) {
		if client.IsLoopback() && r.Header.Get("X-Forwarded-For") != "" {
			a.gate.problems.Begin("guesses", "too many wrong passwords: all clients of the web server on this machine count as one (hint: set trusted_proxies)")
		}
		if !a.wait(r.Context(), account) {
			return http.StatusTooManyRequests
		}
	}
	good, err := a.ask(r, client, given)
	if err != nil {
		release()
		// If the caller disconnected, the error says nothing about upstream.
		if r.Context().Err() == nil {
			a.gate.problems.Begin("admin", "cannot ask the MachineMon server whether a user is an administrator: "+err.Error())
		}
		return http.StatusBadGateway
	}
	a.gate.problems.End("admin", "the MachineMon server answers again whether a user is an administrator")
	if !good {
		a.uncache(sum)
		a.gate.count.denied.Add(1)
		return http.StatusUnauthorized
	}
	release()
	a.cache(sum)
	return http.StatusOK
}

// ask reports whether upstream accepts these credentials as an administrator's. It
// returns an error if upstream answers neither yes nor no, or yes without credentials
// too: a wrong base_path may lead to a page that is open to all.
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
		err = errors.New("it shows /api/v1/admin/settings without a password " + hint)
	}
	return err == nil, err
}

func (a *admins) get(ctx context.Context, host string, client netip.Addr, authorization string) (int, error) {
	u := a.gate.config.Upstream.JoinPath("/api/v1/admin/settings")
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

func (a *admins) isCached(sum [32]byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now().Before(a.good[sum])
}

// isKnown reports whether upstream has accepted these credentials since the gate started,
// and has not refused them since.
func (a *admins) isKnown(sum [32]byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, known := a.good[sum]
	return known
}

func (a *admins) cache(sum [32]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.good) >= maxEntries {
		clear(a.good)
	}
	a.good[sum] = a.now().Add(acceptedFor)
}

// uncache removes credentials that upstream does not accept any more.
func (a *admins) uncache(sum [32]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.good, sum)
}

// reserve reports whether an address may have upstream asked at once: not after
// maxFailures. It counts one failure in advance, which release takes back, because
// otherwise any number of guesses could run in parallel.
func (a *admins) reserve(client netip.Addr) (account netip.Prefix, ok bool) {
	account = hostOf(client)
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := a.now(); now.Sub(a.windowStart) >= time.Minute {
		clear(a.failures)
		a.windowStart = now
	}
	if _, known := a.failures[account]; !known && len(a.failures) >= maxEntries {
		account = netip.Prefix{} // all further addresses share one account
	}
	if a.failures[account] >= maxFailures {
		return account, false
	}
	a.failures[account]++
	return account, true
}

// release takes back one failure, and removes an account without failures.
func (a *admins) release(account netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failures[account]--; a.failures[account] <= 0 {
		delete(a.failures, account)
	}
}

// wait returns true after a pause, which begins when those of all earlier requests of the
// same account have ended. It returns false at once if too many requests wait already, and
// when the caller disconnects.
func (a *admins) wait(ctx context.Context, account netip.Prefix) bool {
	q := a.enter(account)
	if q == nil {
		return false
	}
	defer a.leave(account, q)
	select {
	case q.turn <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-q.turn }()
	select {
	case <-time.After(a.pause):
		return true
	case <-ctx.Done():
		return false
	}
}

// enter returns the account's queue, with a place in it; nil if there is none left.
func (a *admins) enter(account netip.Prefix) *queue {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.queues[account]
	if q == nil {
		q = &queue{turn: make(chan struct{}, 1)}
		a.queues[account] = q
	}
	if q.waiting == maxWaiting {
		return nil
	}
	q.waiting++
	return q
}

func (a *admins) leave(account netip.Prefix, q *queue) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if q.waiting--; q.waiting == 0 {
		delete(a.queues, account)
	}
}

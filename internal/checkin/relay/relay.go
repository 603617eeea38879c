// Package relay is the agent's side of updates, where the agent shall neither be
// changed nor run a check: it listens on loopback, the agent's server_url leads to
// it, and it passes the agent's check-ins on to the MachineMon server.
//
// One request passes, POST /api/v1/checkin, and from one user, the one of the unit
// that the target file names. It gets a header that tells how the target's updates
// went. The answer goes to the agent as it is; an update that it announces becomes a
// directive.
//
// It owns nothing on disk. What it writes is one empty file, in a directory that
// root lends it: a directive, whose place is all that counts. What is installed, the
// target's own source and trust decide, and neither leads through the relay: a relay
// or a server that lies can make a machine ask its own source, once a minute.
//
// The agent's password passes in a header. It is neither logged nor kept.
package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/state"
)

// User is the account that the relay runs as.
const User = "machinemon-relay"

// path is MachineMon's for check-ins.
const path = "/api/v1/checkin"

const (
	maxRequest = 1 << 20          // bytes of a check-in
	patience   = 30 * time.Second // for a whole check-in
)

// Relay passes check-ins on.
type Relay struct {
	config *Config
	proxy  *httputil.ReverseProxy
	notes  *notes
	limit  time.Duration

	// What it asks of this machine; tests have others.
	agent  func(context.Context) (uid uint32, name string, err error) // who may check in
	peer   func(client, here netip.AddrPort) (uid uint32, err error)  // who does
	status func(context.Context) (checkin.Status, error)
	drop   func() (fresh bool, err error)
}

// New makes a relay. What it says goes to say, one line each.
func New(c *Config, say func(string)) *Relay {
	r := &Relay{config: c, notes: &notes{print: say, said: map[string]string{}}, limit: patience, peer: peerUID}
	r.agent = func(ctx context.Context) (uint32, string, error) { return agentUID(ctx, c.Target) }
	r.status = func(ctx context.Context) (checkin.Status, error) { return statusOf(ctx, command, c.Target) }
	r.drop = func() (bool, error) { return state.System.DropDirective(c.Target) }
	r.proxy = r.newProxy()
	return r
}

// ServeHTTP passes one check-in on.
func (r *Relay) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if q.URL.Path != path || q.Method != http.MethodPost {
		refuse(w, http.StatusNotFound, "only POST "+path+" passes here")
		return
	}
	if status, why := r.admit(q); status != http.StatusOK {
		refuse(w, status, why)
		return
	}
	r.notes.over("peer")
	body, err := read(w, q)
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		refuse(w, http.StatusRequestEntityTooLarge, "the check-in is larger than 1 MiB")
		return
	} else if err != nil {
		refuse(w, http.StatusBadRequest, "the check-in was cut")
		return
	}
	q.Body, q.ContentLength, q.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	ctx, cancel := context.WithTimeout(q.Context(), r.limit)
	defer cancel()
	p := &passing{}
	if p.status, err = r.status(ctx); err == nil {
		r.notes.over("status")
	} else if ctx.Err() == nil {
		r.notes.say("status", "check-ins pass without the status of "+r.config.Target+": "+err.Error())
	}
	r.proxy.ServeHTTP(w, q.WithContext(context.WithValue(ctx, passingKey{}, p)))
}

// read reads a check-in, which comes from this machine and so at once. It is whole
// before the server sees any of it.
func read(w http.ResponseWriter, q *http.Request) ([]byte, error) {
	c := http.NewResponseController(w)
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxRequest))
	c.SetReadDeadline(time.Time{}) // from here on, only an agent that leaves ends the wait
	return body, err
}

// unconfigured answers instead of a relay: what waits in the socket is no reason to
// start again and again.
func unconfigured() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusServiceUnavailable, "it cannot use its configuration (hint: journalctl -u machinemon-checkin-relay)")
	})
}

func refuse(w http.ResponseWriter, status int, why string) {
	http.Error(w, "machinemon-checkin-relay: "+why, status)
}

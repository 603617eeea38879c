// Package relay is the agent's side of updates, for agents that are to be updated without
// a change and without a check. It listens on loopback, where the agent's server_url
// points, and passes the agent's check-ins on to the MachineMon server.
//
// It accepts only POST /api/v1/checkin, and only from the user of the unit that the
// target file names. It adds a header with the state of the target's updates. The answer
// goes to the agent unchanged; if it announces an update, the relay ends and says so by its
// exit status, and root drops a directive: see [Deliver].
//
// The relay can write nothing on disk. The target's source and trust decide what is
// installed, and neither depends on the relay: the worst that a lying relay or server can
// do is to make a machine ask its own source, once a minute.
//
// The agent's password passes in a header. The relay neither logs nor stores it.
package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
)

// User is the account that the relay runs as.
const User = "machinemon-relay"

// path is the path of MachineMon's API for check-ins.
const path = "/api/v1/checkin"

const (
	maxRequest     = 1 << 20          // greatest size of a check-in, in bytes
	checkinTimeout = 30 * time.Second // for a check-in and its answer
)

// Relay is the handler that passes check-ins on.
type Relay struct {
	config   *Config
	proxy    *httputil.ReverseProxy
	problems *checkin.Problems
	timeout  time.Duration

	announced chan struct{} // holds a value once an update is announced
	asking    sync.Mutex
	known     agent // the last answer of allowedUID

	// Functions that access this machine, which tests replace.
	allowedUID func(context.Context) (uid uint32, unit string, err error) // of the agent
	owners     func() (map[ends]uint32, error)                            // of all connections
	status     func(context.Context) (checkin.Status, error)
}

// New returns a relay that logs with say, one line per call.
func New(c *Config, say func(string)) *Relay {
	r := &Relay{config: c, problems: checkin.NewProblems(say), timeout: checkinTimeout, owners: owners, announced: make(chan struct{}, 1)}
	r.allowedUID = func(ctx context.Context) (uint32, string, error) { return targetUID(ctx, c.Target) }
	r.status = func(ctx context.Context) (checkin.Status, error) { return statusOf(ctx, command, c.Target) }
	r.proxy = r.newProxy()
	return r
}

// ServeHTTP passes one check-in on.
func (r *Relay) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if q.URL.Path != path || q.Method != http.MethodPost {
		refuse(w, http.StatusNotFound, "the relay passes on only POST "+path)
		return
	}
	if status, why := r.admit(q); status != http.StatusOK {
		refuse(w, status, why)
		return
	}
	body, err := readBody(w, q)
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		refuse(w, http.StatusRequestEntityTooLarge, "the check-in is larger than 1 MiB")
		return
	} else if err != nil {
		refuse(w, http.StatusBadRequest, "the check-in is incomplete")
		return
	}
	q.Body, q.ContentLength, q.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	ctx, cancel := context.WithTimeout(q.Context(), r.timeout)
	defer cancel()
	s, err := r.status(ctx)
	if err == nil {
		r.problems.End("status", "")
	} else if ctx.Err() == nil {
		r.problems.Change("status", "cannot add the status of "+r.config.Target+" to check-ins: "+err.Error())
	}
	r.proxy.ServeHTTP(w, q.WithContext(context.WithValue(ctx, statusKey{}, s)))
}

// readBody reads a whole check-in, so that the server gets none of an incomplete one. Its
// timeout is short, since the check-in comes from this machine.
func readBody(w http.ResponseWriter, q *http.Request) ([]byte, error) {
	c := http.NewResponseController(w)
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxRequest))
	c.SetReadDeadline(time.Time{}) // later reads only notice that the agent disconnects
	return body, err
}

// unconfigured returns a handler that answers each request with 503. If the relay left
// the requests in its socket, systemd would start it again and again.
func unconfigured() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusServiceUnavailable, "the relay cannot use its configuration (hint: journalctl -u machinemon-checkin-relay)")
	})
}

func refuse(w http.ResponseWriter, status int, why string) {
	http.Error(w, "machinemon-checkin-relay: "+why, status)
}

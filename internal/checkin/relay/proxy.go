package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/manifest"
)

type statusKey struct{}

// statusFrom returns the target's status of a request; the zero Status if not known.
func statusFrom(q *http.Request) checkin.Status {
	s, _ := q.Context().Value(statusKey{}).(checkin.Status)
	return s
}

// newProxy returns a proxy that passes a check-in on as the agent would have sent it, with
// the target's status as an additional header.
func (r *Relay) newProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(q *httputil.ProxyRequest) {
			u := *r.config.CheckIn
			q.Out.URL, q.Out.Host = &u, u.Host
			h := q.Out.Header
			h.Del("Accept-Encoding") // the transport sets it, and decompresses for modify
			h.Del("Connection")      // without it and Upgrade, no other protocol can pass
			h.Del("Upgrade")
			h.Del(checkin.StatusHeader) // an agent's own header must not pass
			if s := statusFrom(q.In); s.Target != "" {
				h.Set(checkin.StatusHeader, s.Header())
			}
		},
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			TLSClientConfig:     &tls.Config{RootCAs: r.config.Roots, InsecureSkipVerify: r.config.InsecureSkipTLS, MinVersion: tls.VersionTLS12},
			DialContext:         (&net.Dialer{Timeout: 20 * time.Second}).DialContext,
			TLSHandshakeTimeout: 20 * time.Second, // connections wait while a gate restarts
			// Check-ins are minutes apart. On a kept connection, one would be lost if the
			// server closes the connection at that moment.
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		ModifyResponse: r.modify,
		ErrorHandler:   r.serverFailed,
		ErrorLog:       checkin.PanicLog(r.problems.Say),
	}
}

// modify acts on the server's answer, and does not change it.
func (r *Relay) modify(resp *http.Response) error {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return errors.New("the server switches to another protocol unasked")
	}
	r.problems.End("server", "")
	if resp.StatusCode != http.StatusOK {
		return nil
	}
	head, err := checkin.PeekBody(resp)
	if err != nil {
		return nil // the agent gets the beginning, and sees that the rest is missing
	}
	version, err := checkin.Announced(bytes.NewReader(head))
	if err != nil {
		r.problems.Change("answer", err.Error())
		return nil
	}
	r.problems.End("answer", "")
	r.handleVersion(version, statusFrom(resp.Request).Installed)
	return nil
}

// handleVersion makes the relay end with Announced if the announced version is not the
// installed one.
func (r *Relay) handleVersion(version, installed string) {
	if version == "" || manifest.SameVersion(version, installed) {
		return
	}
	r.problems.Change("directive", r.config.Target+": directive: "+version+" is announced")
	select {
	case r.announced <- struct{}{}:
	default: // it is known already
	}
}

// serverFailed answers a check-in that the server did not answer.
func (r *Relay) serverFailed(w http.ResponseWriter, q *http.Request, err error) {
	// If the agent disconnected, the error says nothing about the server.
	if !errors.Is(q.Context().Err(), context.Canceled) {
		r.problems.Change("server", "cannot pass the check-in on to "+r.config.CheckIn.Host+": "+cause(err))
	}
	refuse(w, http.StatusBadGateway, "the server does not answer (hint: journalctl -u machinemon-checkin-relay)")
}

// cause returns the reason for a missing answer, without any text of the server's: a
// server may send back its request, which has the password in it.
func cause(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "it takes too long"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return op.Error()
	} else if ok {
		return op.Err.Error() // without the port, which would make each line a new one
	}
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		return "it takes too long"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "it does not speak TLS (hint: is the port in server_url right?)"
	}
	if strings.HasPrefix(err.Error(), "tls: ") { // this includes errors of certificates
		return err.Error()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "it closed the connection"
	}
	return "its answer is not HTTP"
}

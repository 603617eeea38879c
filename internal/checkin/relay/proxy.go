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

// passing is a check-in on its way.
type passing struct {
	status checkin.Status // no target: not known
}

type passingKey struct{}

func passingOf(q *http.Request) *passing {
	p, ok := q.Context().Value(passingKey{}).(*passing)
	if !ok {
		return &passing{}
	}
	return p
}

// newProxy passes a check-in on as the agent would have sent it.
func (r *Relay) newProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(q *httputil.ProxyRequest) {
			u := *r.config.CheckIn
			q.Out.URL, q.Out.Host = &u, u.Host
			h := q.Out.Header
			h.Del("Accept-Encoding") // the transport's own: we are to read the answer
			h.Del("Connection")      // nothing but a check-in, whatever they agree on
			h.Del("Upgrade")
			h.Del(checkin.StatusHeader) // ours, or nobody's
			if p := passingOf(q.In); p.status.Target != "" {
				h.Set(checkin.StatusHeader, p.status.Header())
			}
		},
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			TLSClientConfig:     &tls.Config{RootCAs: r.config.Roots, InsecureSkipVerify: r.config.InsecureSkipTLS, MinVersion: tls.VersionTLS12},
			DialContext:         (&net.Dialer{Timeout: 20 * time.Second}).DialContext,
			TLSHandshakeTimeout: 20 * time.Second, // a gate that restarts lets wait
			// A check-in every few minutes needs no connection between them, and on
			// one that the server is about to close it would be lost.
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		ModifyResponse: r.modify,
		ErrorHandler:   r.failed,
		ErrorLog:       checkin.Bugs(r.notes.print),
	}
}

// modify looks at the server's answer, and changes nothing in it.
func (r *Relay) modify(resp *http.Response) error {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return errors.New("nobody asked for another protocol")
	}
	r.notes.over("server")
	if resp.StatusCode != http.StatusOK {
		return nil
	}
	head, err := checkin.Head(resp)
	if err != nil {
		return nil // the agent sees what there was, and that it was cut
	}
	version, err := checkin.Announced(bytes.NewReader(head))
	if err != nil {
		r.notes.say("answer", err.Error())
		return nil
	}
	r.notes.over("answer")
	r.announced(version, passingOf(resp.Request).status.Installed)
	return nil
}

// announced drops a directive where another version is announced than the one that
// is installed, as far as we know.
func (r *Relay) announced(version, installed string) {
	if version == "" || manifest.SameVersion(version, installed) {
		return
	}
	fresh, err := r.drop()
	if err != nil {
		r.notes.say("directive", version+" is announced: "+err.Error())
	} else if fresh {
		r.notes.say("directive", r.config.Target+": directive: "+version+" is announced")
	}
}

// failed answers a check-in that the server did not answer.
func (r *Relay) failed(w http.ResponseWriter, q *http.Request, err error) {
	// An agent that left is no news of the server.
	if !errors.Is(q.Context().Err(), context.Canceled) {
		r.notes.say("server", "cannot pass the check-in on to "+r.config.CheckIn.Host+": "+describe(err))
	}
	refuse(w, http.StatusBadGateway, "the server does not answer (hint: journalctl -u machinemon-checkin-relay)")
}

// describe tells why there is no answer, in none of the server's words: a server may
// send back what it was sent, and that has the password in it.
func describe(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "it takes too long"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return op.Error()
	} else if ok {
		return op.Err.Error() // the rest has a port in it that is another each time
	}
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		return "it takes too long"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "it does not speak TLS (hint: is it http:// in server_url?)"
	}
	if strings.HasPrefix(err.Error(), "tls: ") { // of certificates, too
		return err.Error()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "it closed the connection"
	}
	return "its answer is no HTTP"
}

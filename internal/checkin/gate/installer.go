package gate

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"

	"github.com/machinemon/machinemon-update/internal/checkin"
)

// serverLine is where upstream's installer has the address from which it downloads.
var serverLine = regexp.MustCompile(`(?m)^BASE_URL="(https?://[^"\s]+)"$`)

type installerKey struct{}

// expectInstaller marks a request for upstream's installer. The mark is the gate's address.
func (g *Gate) expectInstaller(r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), installerKey{}, g.external(r)))
}

// leadHere makes upstream's installer download through the gate. Past the gate, it would
// get upstream's own archives, which may be of an older release. Only a configured address
// goes into the script, because root runs it: what is known of a request may lack the TLS
// of a proxy before the gate.
func (g *Gate) leadHere(resp *http.Response, here string) error {
	head, err := checkin.PeekBody(resp)
	if err != nil {
		return nil // the client gets the beginning, and sees that the rest is missing
	}
	script, ok := plainText(resp, head)
	found := serverLine.FindSubmatch(script)
	if !ok || found == nil {
		g.problems.Begin("installer", "cannot read MachineMon's installer, which may download past the gate")
		return nil
	}
	g.problems.End("installer", "")
	there := string(found[1])
	switch {
	case there == here:
		return nil
	case g.config.External != "":
		replaceBody(resp, bytes.ReplaceAll(script, found[1], []byte(here)))
	case host(there) != host(here):
		g.problems.Change("installer's server", fmt.Sprintf("MachineMon's installer downloads from %s, and clients ask the gate as %s: "+
			"past the gate, it installs MachineMon's own archives (hint: set external_url)", there, here))
	}
	return nil
}

func host(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// plainText returns the text of an answer, which may be compressed; false if it is encoded
// in another way, damaged or too large.
func plainText(resp *http.Response, head []byte) (text []byte, ok bool) {
	switch resp.Header.Get("Content-Encoding") {
	case "", "identity":
		text = head
	case "gzip":
		text = inflate(head)
	}
	return text, text != nil && len(text) <= checkin.MaxResponse
}

// replaceBody replaces an answer's body.
func replaceBody(resp *http.Response, body []byte) {
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	resp.ContentLength = int64(len(body))
	resp.Header.Del("Content-Encoding")
	resp.Header.Del("Etag")
	resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
}

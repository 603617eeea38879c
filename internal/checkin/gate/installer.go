package gate

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/rollout"
)

// serverLine is where upstream's installer has the address from which it downloads.
var serverLine = regexp.MustCompile(`(?m)^BASE_URL="(https?://[^"\s]+)"$`)

type installerKey struct{}

// expectInstaller marks a request for upstream's installer. The mark is the gate's address.
// Upstream must send the script as it is, and all of it, since the gate changes it.
func (g *Gate) expectInstaller(r *http.Request) *http.Request {
	r = r.Clone(context.WithValue(r.Context(), installerKey{}, g.external(r)))
	for _, name := range []string{"Accept-Encoding", "Range", "If-Range"} {
		r.Header.Del(name)
	}
	return r
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

// published returns the published release and its platform whose archive has this name,
// without version and digest; nil if it is another name. broken reports that there is a
// manifest, but no valid one.
func (g *Gate) published(name string) (m *manifest.Manifest, p manifest.Platform, broken bool) {
	name, ok := strings.CutSuffix(name, ".tar.gz")
	if !ok {
		return nil, p, false
	}
	if m, broken = g.readManifest(); m == nil || m.Product == "" {
		return nil, p, broken
	}
	key, ours := strings.CutPrefix(name, m.Product+"-")
	if p, ok = m.Platforms[key]; !ours || !ok {
		return nil, p, false
	}
	return m, p, false
}

// serveInstaller serves the archive of a platform to MachineMon's installer, which asks for
// it by product and platform. It gets that of the published release, and never upstream's
// own, which may be older. It verifies nothing, so it gets none that machines must not
// install, and only what the name says: a tar in gzip. Updaters ask for an archive by its
// own name, which is another one if machinemon-release has published it, and decide by the
// manifest.
func (g *Gate) serveInstaller(w http.ResponseWriter, r *http.Request, name string, m *manifest.Manifest, p manifest.Platform) {
	file := path.Join(path.Dir(g.config.Manifest), p.File)
	elsewhere := !manifest.ValidFile(p.File)
	switch why := g.withheld(m); {
	case why != "":
		http.Error(w, why, http.StatusServiceUnavailable)
	case elsewhere && !tarGzip.MatchString(p.File), !elsewhere && p.File != name && g.otherFormat(file):
		http.Error(w, fmt.Sprintf("%s of %s is no tar.gz, which MachineMon's installer needs (hint: machinemon-update can install it)", path.Base(p.File), m.Version), http.StatusNotFound)
	case elsewhere:
		http.Redirect(w, r, p.File, http.StatusFound)
	case !g.serveFile(w, r, file):
		http.NotFound(w, r)
	}
}

// tarGzip matches the addresses of archives elsewhere.
var tarGzip = regexp.MustCompile(`\.(tar\.gz|tgz)(\?|$)`)

// otherFormat reports whether a file of the download directory is there and no tar in gzip.
func (g *Gate) otherFormat(name string) bool {
	f, _, err := g.open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return true
	}
	defer z.Close()
	head := make([]byte, 512) // the first header
	_, err = io.ReadFull(z, head)
	return err != nil || string(head[257:262]) != "ustar"
}

// withheld returns why no machine is to install the release now; "" if some may. An
// installer that a person runs is not subject to a share of the machines, as
// "machinemon-update apply" is not.
func (g *Gate) withheld(m *manifest.Manifest) string {
	switch {
	case g.stopped():
		return "updates are stopped at the gate (hint: an administrator lets them go on at /updates)"
	case m.Disabled:
		return m.Version + " is disabled by its publisher"
	case rollout.Percent(m) == 0:
		return m.Version + " is for 0 % of the machines: its publisher has stopped its rollout, or has not begun it"
	}
	return ""
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

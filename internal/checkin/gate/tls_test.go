package gate

import (
	"encoding/pem"
	"io"
	"log"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestUpstreamTLS checks that a server with its own certificate is reached only if the
// configuration names that, or gives verification up.
func TestUpstreamTLS(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		host   string
		status int
	}{
		"unknown":           {"", "127.0.0.1", 502},
		"its certificate":   {"upstream_ca_file = \"CERT\"", "127.0.0.1", 200},
		"not for this name": {"upstream_ca_file = \"CERT\"", "localhost", 502},
		"not verified":      {"upstream_insecure_skip_tls = true", "localhost", 200},
	} {
		t.Run(name, func(t *testing.T) {
			up := newUpstream(t)
			secure := httptest.NewUnstartedServer(up.Config.Handler)
			secure.Config.ErrorLog = log.New(io.Discard, "", 0)
			secure.StartTLS()
			defer secure.Close()
			cert := filepath.Join(t.TempDir(), "cert.pem")
			testkit.Put(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})))
			at, err := url.Parse(secure.URL)
			testkit.Must(t, err)
			text := "upstream = \"https://" + c.host + ":" + at.Port() + "\"\n" + strings.ReplaceAll(c.config, "CERT", cert)
			loaded, err := load(t, text)
			testkit.Must(t, err)
			b := newBench(t, func(conf *Config) { conf.Upstream, conf.UpstreamTLS = loaded.Upstream, loaded.UpstreamTLS })
			if a := b.checkIn(request("amd64", "v0.1.11")); a.status != c.status {
				t.Errorf("the check-in: %+v", a)
			}
			if a := b.do("GET", "/updates", "", "Authorization: admin"); a.status != c.status {
				t.Errorf("the page: %d", a.status)
			}
			if got := b.lines(); (got == "") != (c.status == 200) || c.status != 200 && !strings.Contains(got, "x509: ") {
				t.Errorf("it said %s", got)
			}
		})
	}
}

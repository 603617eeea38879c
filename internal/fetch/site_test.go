package fetch

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestMain makes httptest's certificate the only trusted one.
func TestMain(m *testing.M) {
	if args := os.Getenv(childEnv); args != "" {
		os.Exit(fetcher1(args))
	}
	dir, err := os.MkdirTemp("", "fetch")
	if err != nil {
		log.Fatal(err)
	}
	s := httptest.NewTLSServer(nil)
	roots := filepath.Join(dir, "roots.pem")
	err = os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600)
	s.Close()
	if err != nil {
		log.Fatal(err)
	}
	os.Setenv("SSL_CERT_FILE", roots)
	os.Setenv("SSL_CERT_DIR", dir)
	// A proxy in the environment must never be used.
	for _, v := range []string{"http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"} {
		os.Setenv(v, "http://127.0.0.1:9")
	}
	code := testkit.NoLeaks(m.Run())
	os.RemoveAll(dir)
	os.Exit(code)
}

const attempt = "20261101t120000-0badcafe"

var payload = []byte(strings.Repeat("an archive that nobody opens here\n", 10_000))

// release1 returns the manifest that a publisher would make for payload.
func release1() *manifest.Manifest {
	return &manifest.Manifest{Schema: 1, Product: "agent", Version: "v2", Sequence: 7, Platforms: map[string]manifest.Platform{
		manifest.Host(): {
			File: "agent.tar.gz", SHA256: manifest.Digest(payload), Size: int64(len(payload)), UnpackedSize: 1000,
			Contents: map[string]manifest.Content{"agent": {SHA256: manifest.Digest([]byte("agent")), Size: 5}},
		},
	}}
}

func marshal(t *testing.T, m *manifest.Manifest) []byte {
	t.Helper()
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// edit changes the platform of a manifest.
func edit(m *manifest.Manifest, f func(p *manifest.Platform)) *manifest.Manifest {
	p := m.Platforms[manifest.Host()]
	f(&p)
	m.Platforms[manifest.Host()] = p
	return m
}

// site serves a release. A handler for "/client-manifest.json" or "/agent.tar.gz" replaces
// the correct answer.
type site map[string]http.HandlerFunc

func (s site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := s[r.URL.Path]; h != nil {
		h(w, r)
		return
	}
	http.NotFound(w, r)
}

func newSite(t *testing.T) site {
	return site{
		"/client-manifest.json": bytesHandler(marshal(t, release1())),
		"/agent.tar.gz":         bytesHandler(payload),
	}
}

func bytesHandler(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { w.Write(b) }
}

func serve(t *testing.T, h http.Handler) string {
	return serveOn(t, httptest.NewUnstartedServer(h), nil)
}

func serveTLS(t *testing.T, h http.Handler) string {
	return serveOn(t, httptest.NewUnstartedServer(h), &tls.Config{})
}

func serveOn(t *testing.T, s *httptest.Server, conf *tls.Config) string {
	s.Config.ErrorLog = log.New(discard{}, "", 0)
	if conf != nil {
		s.TLS = conf
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// certificate makes a certificate for 127.0.0.1, signed by that of httptest, which is a
// CA, or by itself.
func certificate(t *testing.T, notAfter time.Time, selfSigned bool) tls.Certificate {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: notAfter.Add(-time.Hour), NotAfter: notAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	parent, signer := s.Certificate(), s.TLS.Certificates[0].PrivateKey
	if selfSigned {
		parent, signer = leaf, key
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// bench is a machine with one target.
type bench struct {
	tree     state.Tree
	target   *target.Target
	limits   download.Limits
	rootOnly func(string) error
	reports  []int64
	// machineID is the content of the file.
	machineID string
	pinned    string // path of the pinned root
}

func newBench(t *testing.T, url string) *bench {
	t.Helper()
	v, run := testkit.Tree(t)
	return benchAt(v, run, url)
}

func benchAt(v, run, url string) *bench {
	fast := download.DefaultLimits
	fast.Pause = time.Millisecond
	return &bench{
		tree: state.Tree{Var: v, Run: run},
		target: &target.Target{
			Name: "agent", AutoUpdateEnabled: true,
			Source:  target.Source{Type: target.SourceManifest, URL: url + "/client-manifest.json"},
			Trust:   target.Trust{Mode: target.TrustChecksum, Product: "agent"},
			Install: []target.Install{{From: "agent", To: "/usr/local/bin/agent"}},
		},
		limits:   fast,
		rootOnly: func(string) error { return nil }, // the tests' directories are not root's
	}
}

func (b *bench) order(verb state.Verb, installed string) state.Order {
	return state.Order{Attempt: attempt, Origin: state.OriginOperator, Verb: verb, Installed: installed}
}

func (b *bench) run(t *testing.T, order state.Order) state.Attempt {
	t.Helper()
	id := filepath.Join(t.TempDir(), "machine-id")
	if err := os.WriteFile(id, []byte(b.machineID), 0o444); err != nil {
		t.Fatal(err)
	}
	f := &fetcher{tree: b.tree, name: "agent", order: order, limits: b.limits, rootOnly: b.rootOnly, machineID: id,
		report: func(done, total int64) { b.reports = append(b.reports, done) }}
	a, err := f.run(context.Background(), b.target)
	if err != nil {
		t.Fatal(err)
	}
	s := b.status(t)
	public := a
	public.Cause = ""
	if got := s.Attempts[len(s.Attempts)-1]; !reflect.DeepEqual(got, public) {
		t.Errorf("recorded %+v, returned %+v", got, a)
	}
	if a.Result == state.ResultHandedOn { // root compares what comes from the verifier with this
		raw, err := os.ReadFile(filepath.Join(b.tree.Ready(state.RoleFetch, "agent"), string(a.ID), state.ManifestName))
		h, herr := b.tree.Handover("agent")
		if err != nil || herr != nil || h == nil || h.Attempt != a.ID || h.Manifest != manifest.Digest(raw) {
			t.Errorf("handed on, by the record: %+v, %v, %v", h, herr, err)
		}
	}
	return a
}

func (b *bench) status(t *testing.T) state.Status {
	t.Helper()
	s, err := b.tree.Status(state.RoleFetch, "agent")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// spool lists all of ready/, with hidden entries, without the link to the entry that is
// handed on.
func (b *bench) spool(t *testing.T) []string {
	t.Helper()
	ready := b.tree.Ready(state.RoleFetch, "agent")
	return slices.DeleteFunc(testkit.Names(t, ready), func(name string) bool {
		to, err := os.Readlink(filepath.Join(ready, name))
		return err == nil && name == ".next.link" && to == attempt
	})
}

// mustFail checks an attempt that handed on nothing and left nothing.
func (b *bench) mustFail(t *testing.T, a state.Attempt, result state.Result, text string) {
	t.Helper()
	if a.Result != result || !strings.Contains(a.Reason, text) {
		t.Errorf("%s: %s\nwant %s: …%s…", a.Result, a.Reason, result, text)
	}
	if strings.ContainsAny(a.Reason, "\n\x1b") || strings.Count(a.Reason, "cannot ") > 1 {
		t.Errorf("not one clear line: %q", a.Reason)
	}
	if left := b.spool(t); len(left) != 0 {
		t.Errorf("left in the spool: %v", left)
	}
	for _, name := range testkit.Names(t, b.tree.Dir(state.RoleFetch, "agent")) {
		if !slices.Contains([]string{"status.json", "manifest.json", "trust.json", "handover.json", "ready"}, name) {
			t.Errorf("left in the state directory: %s", name)
		}
	}
}

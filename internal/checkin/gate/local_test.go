package gate

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestLocal checks that the local socket has metrics for all, and the switch for root.
func TestLocal(t *testing.T) {
	b := newBench(t)
	b.publish()
	b.checkIn(request("amd64", "v0.1.11"))
	b.checkIn(request("amd64", "v0.1.11"), "X-Client-Password: wrong")
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var uid atomic.Uint32
	s := &http.Server{Handler: b.Local(), ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(withPeer(ctx, c), peerKey{}, uid.Load())
	}}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })

	said, err := Switch(t.Context(), socket, "off", "nobody")
	if err != nil || !b.stopped() || !strings.Contains(said, ", by nobody on this machine\n") || !strings.HasSuffix(said, "machinemon-release set "+b.config.DownloadDir+" --disabled\n") {
		t.Errorf("%q, %v", said, err)
	}
	if said, err := Switch(t.Context(), socket, "", ""); err != nil || !strings.HasPrefix(said, "directives are off since ") {
		t.Errorf("%q, %v", said, err)
	}
	if said, err := Switch(t.Context(), socket, "on", "no such user"); err != nil || b.stopped() || !strings.Contains(said, ", by root on this machine\n") {
		t.Errorf("%q, %v", said, err)
	}
	uid.Store(65534)
	if _, err := Switch(t.Context(), socket, "off", ""); err == nil || err.Error() != "cannot change the settings: only root may turn the switch" || b.stopped() {
		t.Errorf("%v", err)
	}
	if _, err := Switch(t.Context(), socket+".none", "", ""); err == nil || !strings.HasPrefix(err.Error(), "cannot reach the gate: ") || !strings.Contains(err.Error(), "hint: sudo systemctl start") {
		t.Errorf("%v", err)
	}
	silent, err := net.Listen("unix", socket+".silent") // as systemd's socket, while the gate does not start
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Switch(soon, socket+".silent", "off", ""); err == nil || err.Error() != "cannot reach the gate: it does not answer, and may still do what it was asked when it starts (hint: systemctl status machinemon-checkin-gate.service says why)" {
		t.Errorf("%v", err)
	}

	if a := put(t, socket, strings.Repeat(" ", 5000)); a.StatusCode != 403 {
		t.Errorf("a stranger's body was read: %d", a.StatusCode)
	}
	uid.Store(0)
	for body, want := range map[string]int{strings.Repeat(" ", 5000): 413, "{}": 400, "directives=off": 400} {
		if a := put(t, socket, body); a.StatusCode != want || b.stopped() {
			t.Errorf("%.20q: %d", body, a.StatusCode)
		}
	}

	// On a socket other than a Unix socket, no client counts as root.
	tcp := httptest.NewServer(b.Local())
	defer tcp.Close()
	q, err := http.NewRequest("PUT", tcp.URL+"/settings", strings.NewReader(`{"directives": false}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(q)
	if err != nil || resp.StatusCode != 403 || b.stopped() {
		t.Fatalf("%+v, %v", resp, err)
	}
	resp.Body.Close()
	if resp, err = http.Get(tcp.URL + "/metrics"); err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# TYPE machinemon_checkin_gate_checkins_total counter\nmachinemon_checkin_gate_checkins_total 1\n", "_checkins_refused_total 1\n",
		"_directives_total 1\n", "_directives_enabled 1\n", "_downloads_total 0\n", "_reports_dropped_total 0\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the metrics lack %q:\n%s", want, text)
		}
	}
}

// put sends settings to a Unix socket.
func put(t *testing.T, socket, body string) *http.Response {
	t.Helper()
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) }}
	defer tr.CloseIdleConnections()
	q, err := http.NewRequest("PUT", "http://gate/settings", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(q)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp
}

// TestPeer checks that the user is taken from the kernel, not from a header.
func TestPeer(t *testing.T) {
	b := newBench(t)
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	peers := make(chan any, 1)
	s := &http.Server{Handler: b.Local(), ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		ctx = withPeer(ctx, c)
		peers <- ctx.Value(peerKey{})
		return ctx
	}}
	go s.Serve(l)
	defer s.Close()
	_, err = Switch(t.Context(), socket, "off", "")
	if (err == nil) != (os.Getuid() == 0) || b.stopped() != (os.Getuid() == 0) {
		t.Errorf("as user %d: %v", os.Getuid(), err)
	}
	if got := <-peers; got != uint32(os.Getuid()) {
		t.Errorf("the peer is %v", got)
	}
}

// TestServeEnds checks that a stopping gate finishes requests and writes their reports.
func TestServeEnds(t *testing.T) {
	b := newBench(t)
	c := *b.config
	data := newDatabase(t)
	c.Database = data.name
	said := make(chan string, 10)
	g := New(&c, func(line string) { said <- line })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(ctx, []net.Listener{l}, nil) }()
	q, err := http.NewRequest("POST", "http://"+l.Addr().String()+"/api/v1/checkin", strings.NewReader(request("amd64", "v1")))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("X-Client-Password", client)
	resp, err := http.DefaultClient.Do(q)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%+v, %v", resp, err)
	}
	resp.Body.Close()
	line := ""
	select {
	case line = <-said:
	default:
	}
	if line != "there is no "+c.DownloadDir+"/"+c.Manifest+", so no client gets a directive (hint: machinemon-release publish "+c.DownloadDir+" writes it; "+
		"download_dir in /etc/machinemon-update/checkin-gate.toml names the directory)" {
		t.Errorf("without a release it says %q", line)
	}
	// The switch was read before the first request was accepted.
	if g.stopped() {
		t.Error("updates are stopped")
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := len(data.all("")); n != 1 {
		t.Errorf("%d clients are recorded", n)
	}
}

package gate

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestRestarts checks that no check-in is lost while gates replace each other.
func TestRestarts(t *testing.T) {
	testkit.Slow(t)
	up := newUpstream(t)
	at, err := url.Parse(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := &Config{Upstream: at, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, DownloadDir: dir, Manifest: "client-manifest.json", Database: filepath.Join(dir, "gate.db")}
	serve := func(ctx context.Context, l net.Listener) error {
		return New(c, func(line string) { t.Log(line) }).Serve(ctx, []net.Listener{l}, nil)
	}
	var sent atomic.Int64
	testkit.Restart(t, 50*time.Millisecond, serve, 200, func(agent *http.Client, gate string) {
		q, err := http.NewRequest("POST", gate+"/api/v1/checkin", strings.NewReader(request("amd64", "v0.1.11")))
		if err != nil {
			t.Error(err)
			return
		}
		q.Header.Set("X-Client-Password", client)
		n := sent.Add(1) // each agent has its own address, since upstream limits check-ins by it
		q.Header.Set("X-Forwarded-For", fmt.Sprintf("192.0.%d.%d", n/250, n%250))
		resp, err := agent.Do(q)
		if err != nil {
			t.Error(err)
			return
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(got) != plainAnswer {
			t.Errorf("%d %q, %v", resp.StatusCode, got, err)
		}
	})
}

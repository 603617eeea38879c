package gate

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestRestarts checks that no check-in is lost while gates replace each other.
func TestRestarts(t *testing.T) {
	up := newUpstream(t)
	at, err := url.Parse(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := &Config{Upstream: at, DownloadDir: dir, Manifest: "client-manifest.json", Database: filepath.Join(dir, "gate.db")}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File() // kept open, as systemd does
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	enough := make(chan struct{})
	var gates sync.WaitGroup
	gates.Go(func() {
		for {
			select {
			case <-enough:
				return
			default:
			}
			mine, err := net.FileListener(socket)
			if err != nil {
				t.Error(err)
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if err := New(c, func(line string) { t.Log(line) }).Serve(ctx, []net.Listener{mine}, nil); err != nil {
				t.Error(err)
			}
			cancel()
		}
	})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			agent := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			for range 200 {
				q, err := http.NewRequest("POST", "http://"+l.Addr().String()+"/api/v1/checkin", strings.NewReader(request("amd64", "v0.1.11")))
				if err != nil {
					t.Error(err)
					return
				}
				q.Header.Set("X-Client-Password", client)
				resp, err := agent.Do(q)
				if err != nil {
					t.Error(err)
					continue
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(got) != plainAnswer {
					t.Errorf("%d %q, %v", resp.StatusCode, got, err)
				}
			}
		})
	}
	clients.Wait()
	close(enough)
	gates.Wait()
}

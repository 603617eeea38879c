//go:build systemd

package systemtest

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

// TestRedirects: the source of signed releases is a server elsewhere, over plain http, and
// its answers lead to many addresses. None leads to the machine or its link, and what all
// users can read does not show which ports are open.
func TestRedirects(t *testing.T) {
	once(t)
	t.Parallel()
	const source, private, link = "192.0.2.7", "10.9.9.9", "169.254.169.254"
	c := newChain(t, testdUnit, strings.Replace(signedTarget, "127.0.0.1:9000", source+":9000", 1))
	c.must("sh", "-ec", "for a in "+source+" "+private+" "+link+"; do ip address add $a/32 dev lo; done; echo 127.0.0.1 rebound.test >>/etc/hosts")
	p := newPublisher(t)
	p.publish(releases.Daemon{Version: "1.1.0"})
	c.show(p)
	c.pin(p)
	server := c.serveAt(source + ":9000")

	var connections atomic.Int32
	for _, at := range []string{"127.0.0.1:9100", link + ":80", private + ":22"} {
		l, err := c.Listen("tcp", at)
		c.ok(err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				if !strings.HasPrefix(at, private) {
					connections.Add(1)
				}
				conn.Write([]byte("SSH-2.0-x\r\n\r\n"))
				conn.Close()
			}
		}()
	}
	// redirected returns what all users can read after the answer to a request for a file
	// led to this address.
	redirected := func(file, to string, exit int) string {
		c.t.Helper()
		server.Break(file, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			http.Redirect(w, r, "http://"+to+file, http.StatusFound)
		})
		defer server.Mend(file)
		c.apply(exit)
		seen := c.run(asUser("nobody", "nogroup", "machinemon-update", "status", "--json", "testd")...)
		if seen.Code != 0 || strings.Count(seen.Stdout, to) == 0 {
			c.t.Errorf("nobody sees %+v", seen)
		}
		return strings.ReplaceAll(c.status().Last.Reason, to, "AT")
	}
	archive := c.archive("1.1.0")
	for _, test := range []struct{ name, host, open, closed, says string }{
		{"loopback", "127.0.0.1", "9100", "9101", "which is an address of this machine"},
		{"a name of it", "rebound.test", "9100", "9101", "which is an address of this machine"},
		{"any address", "0.0.0.0", "9100", "9101", "which is an address of this machine"},
		{"mapped", "[::ffff:127.0.0.1]", "9100", "9101", "which is an address of this machine"},
		{"metadata", link, "80", "81", "which is a link-local address"},
	} {
		for _, file := range []string{"/timestamp.json", archive} {
			c.step(test.name+file, func() {
				said := func(port string) string {
					return redirected(file, test.host+":"+port, 6)
				}
				one, other := said(test.open), said(test.closed)
				if one != other || !strings.Contains(one, "it was redirected to http://AT"+file+", "+test.says) {
					c.t.Errorf("an open port: %s\na closed one: %s", one, other)
				}
			})
		}
	}
	if n := connections.Load(); n > 0 {
		t.Errorf("there were %d connections", n)
	}
	c.step("a private network", func() {
		since := c.cursor()
		one := redirected("/timestamp.json", private+":22", 7)
		other := redirected("/timestamp.json", private+":23", 7)
		if one != other || !strings.Contains(one, "in a private network, and did not come from there") {
			c.t.Errorf("an open port: %s\na closed one: %s", one, other)
		}
		for _, cause := range []string{"malformed HTTP response", "connection refused"} {
			c.await(since, func(e machine.Entry) bool {
				return strings.Contains(e["MESSAGE"], "testd: the cause: ") && strings.Contains(e["MESSAGE"], cause)
			})
		}
		s := c.serveAt(private + ":9000")
		server.Break(archive, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			http.Redirect(w, r, "http://"+private+":9000"+r.URL.Path, http.StatusFound)
		})
		c.apply(0, "committed 1.1.0 (was 1.0.0)")
		if n, _ := sentOf(archive, s); n != 1 {
			c.t.Errorf("%d answers from there", n)
		}
	})
	c.assertRuns(releases.Daemon{Version: "1.1.0"})
}

// serveAt serves the chain's releases at another address of the machine.
func (c *chain) serveAt(address string) *releases.Server {
	c.t.Helper()
	l, err := c.Listen("tcp", address)
	c.ok(err)
	s, err := releases.Serve(l, c.dir)
	c.ok(err)
	c.t.Cleanup(func() { s.Close() })
	return s
}

package checkin

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// client is a connection to the server under test.
type client struct {
	net.Conn
	in *bufio.Reader
}

// limited starts a server with these limits by the peer's address, and returns a function
// that connects from an address and sends the beginning of a request.
func limited(t *testing.T, all, each int, h http.HandlerFunc) (v *Connections, connect func(from, send string) *client) {
	s := &http.Server{Handler: h, MaxHeaderBytes: 4096}
	v = TrackConnections(s, time.Hour, func(c net.Conn) []Share {
		return []Share{{c.RemoteAddr().(*net.TCPAddr).IP.String(), each}, {"all", all}}
	})
	l := testkit.Listen(t)
	go s.Serve(Steady(l))
	t.Cleanup(func() { s.Close() })
	return v, func(from, send string) *client {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, send)
		return &client{c, bufio.NewReader(c)}
	}
}

// places returns the number of connections in all shares.
func (v *Connections) places() (held int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, n := range v.held {
		held += n
	}
	return held
}

const whole = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"

// TestLimit checks that a connection above the limit replaces the one that has waited for
// its peer for the longest time, in each state in which it may wait.
func TestLimit(t *testing.T) {
	for name, sent := range map[string]string{
		"nothing":         "",
		"part of headers": "GET / HTTP/1.1\r\nHost: h\r\nX: ",
		"part of a body":  "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx",
		"kept":            whole,
	} {
		t.Run(name, func(t *testing.T) {
			v, connect := limited(t, 10, 10, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
			var flood []*client
			for range 50 {
				flood = append(flood, connect("127.0.0.1", sent))
			}
			for range 5 {
				resp, err := http.ReadResponse(connect("127.0.0.1", whole).in, nil)
				if err != nil || resp.StatusCode != 200 {
					t.Fatalf("%v, %v", resp, err)
				}
			}
			if name != "kept" { // those wait since their answers, which may be in another order
				for _, c := range flood[:40] {
					if _, err := io.ReadAll(c.in); err != nil && !strings.Contains(err.Error(), "reset") {
						t.Fatal(err) // it is still open
					}
				}
			}
			if held := v.places(); held > 20 {
				t.Errorf("%d places are held", held)
			}
		})
	}
}

// TestLimitEach checks that one address that is above its limit replaces only its own.
func TestLimitEach(t *testing.T) {
	_, connect := limited(t, 100, 5, func(w http.ResponseWriter, r *http.Request) {})
	early := connect("127.0.0.2", "GET / HTTP/1.1\r\n")
	for range 200 {
		connect("127.0.0.1", "GET / HTTP/1.1\r\n")
	}
	io.WriteString(early, "Host: h\r\n\r\n")
	if resp, err := http.ReadResponse(early.in, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("%v, %v", resp, err)
	}
}

// TestLimitAnswering checks that a request that is being answered is not broken off, unless
// that takes longer than a minute.
func TestLimitAnswering(t *testing.T) {
	release := make(chan bool)
	var answering atomic.Int32
	v, connect := limited(t, 3, 3, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		answering.Add(1)
		<-release
	})
	reach := func(n int32) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); answering.Load() < n; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				close(release)
				t.Fatalf("%d requests are being answered, want %d", answering.Load(), n)
			}
		}
	}
	var asked []*client
	for i := range 3 {
		asked = append(asked, connect("127.0.0.1", fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx", i)))
	}
	reach(3)
	for range 10 {
		if _, err := connect("127.0.0.1", whole).in.ReadByte(); err == nil {
			t.Error("a connection above the limit is answered")
		}
	}
	v.mu.Lock()
	for _, o := range v.open {
		o.since = o.since.Add(-2 * longAnswer)
	}
	v.mu.Unlock()
	asked = append(asked, connect("127.0.0.1", whole))
	reach(4)
	close(release)
	broken := 0
	for _, c := range asked {
		if resp, err := http.ReadResponse(c.in, nil); err != nil {
			broken++
		} else if resp.StatusCode != 200 {
			t.Error(resp.Status)
		}
	}
	if broken != 1 {
		t.Errorf("%d answers were broken off for a new one", broken)
	}
	if held := v.places(); held > 6 {
		t.Errorf("%d places are held", held)
	}
}

// TestProblems checks that each kind of line is bounded, and that one kind does not use up
// the lines of another.
func TestProblems(t *testing.T) {
	var said []string
	p := NewProblems(func(line string) { said = append(said, line) })
	for i := range 1000 {
		p.Begin("a", "a begins")
		p.Begin("a", "a begins again")
		p.Change("b", fmt.Sprint("b ", i))
		p.Change("b", fmt.Sprint("b ", i))
		p.End("a", "a ends")
		p.End("a", "a ends again")
	}
	if len(said) != 2*burst || said[0] != "a begins" || said[1] != "b 0" || said[2] != "a ends" {
		t.Errorf("%d lines: %q", len(said), said)
	}
	p.Change("c", "c")
	p.Say("d\n")
	if got := said[len(said)-2:]; got[0] != "c" || len(said) != 2*burst+2 {
		t.Errorf("%q", said)
	}
	p.kinds["b"].SetBurst(burst + 1)
	p.kinds["b"].AllowN(time.Now(), 0)
	p.kinds["b"].SetLimit(1e9)
	time.Sleep(time.Millisecond)
	p.Change("b", "b")
	if got := said[len(said)-1]; got != "b (990 lines like this were omitted)" {
		t.Errorf("%q", got)
	}
}

package gate

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// memoryMax is MemoryMax= in the gate's unit, and floodMax what a flood may make of it.
const (
	memoryMax = 1536 << 20
	floodMax  = memoryMax / 4
)

// TestFlood opens thousands of connections of each kind that costs the gate memory without
// a password, and checks that the gate stays far below its unit's MemoryMax=, and that
// meanwhile each check-in passes, from the same address.
func TestFlood(t *testing.T) {
	testkit.Slow(t)
	if kind != "SQLite" {
		t.Skip("it is not about the database")
	}
	mib := strings.Repeat("x", 1<<20)
	post := "POST /api/v1/checkin HTTP/1.1\r\nHost: h\r\nContent-Length: 1048000\r\n\r\n"
	for name, c := range map[string]struct {
		many int
		sent string
	}{
		"headers of 1 MiB":                {10_000, "GET / HTTP/1.1\r\nHost: h\r\nX: " + mib},
		"many headers of 1 MiB":           {3000, "GET / HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("A: b\r\n", 1<<20/6)},
		"headers of 16 KiB, unfinished":   {10_000, "GET / HTTP/1.1\r\nHost: h\r\nX: " + mib[:16000]},
		"check-ins of 1 MiB, unfinished":  {3000, post + mib[:1000<<10]},
		"check-ins of 32 KiB, unfinished": {5000, post + mib[:32000]},
	} {
		t.Run(name, func(t *testing.T) { flood(t, c.many, c.sent) })
	}
}

func flood(t *testing.T, many int, sent string) {
	const workers = 16
	g := gateBefore(t, start(t, "upstream").url)
	address := strings.TrimPrefix(g.url, "http://")
	work, opened := make(chan int), make(chan net.Conn)
	for range workers {
		go func() {
			for range work {
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
				} else {
					// The gate refuses it before it has read all.
					c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
					io.WriteString(c, sent)
				}
				opened <- c
			}
		}()
	}
	go func() {
		defer close(work)
		for i := range many {
			select {
			case work <- i:
			case <-t.Context().Done():
				return
			}
		}
	}()
	answered, slowest := 0, time.Duration(0)
	for i := range many {
		if c := <-opened; c != nil {
			defer c.Close()
		}
		if i%500 != 499 {
			continue
		}
		begun := time.Now()
		if status, body, err := checkInAt(g.url); status != 200 || !strings.Contains(body, "update_version") || err != nil {
			t.Errorf("after %d connections: %d %s, %v", i+1, status, body, err)
		} else {
			answered++
		}
		slowest = max(slowest, time.Since(begun))
		if peak := g.memory("VmHWM"); peak > floodMax {
			t.Fatalf("after %d connections the gate took %d MiB", i+1, peak>>20)
		}
	}
	t.Logf("%d connections: at most %d MiB; %d of %d check-ins answered, the slowest after %s", many, g.memory("VmHWM")>>20, answered, many/500, slowest)
}

// TestRefusedHeader checks that a client with too large a header gets an answer.
func TestRefusedHeader(t *testing.T) {
	g := gateBefore(t, start(t, "upstream").url)
	for size, want := range map[int]int{15 << 10: 200, 64 << 10: http.StatusRequestHeaderFieldsTooLarge} {
		q, err := http.NewRequest("GET", g.url+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("X", strings.Repeat("x", size))
		resp, err := direct.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%d bytes: %s", size, resp.Status)
		}
	}
}

// TestStrangersLog checks that malformed requests log nothing of the MachineMon server,
// and that an upstream that comes and goes logs a bounded number of lines.
func TestStrangersLog(t *testing.T) {
	testkit.Slow(t)
	b := newBench(t)
	ask := func(request string) string {
		t.Helper()
		c, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, request)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.Status
	}
	for _, request := range []string{
		"POST /api/v1/checkin HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
		"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxZZ\r\n",
		"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\nX y\r\n\r\n",
		"GET /x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: \xff\r\n\r\n",
		"GET /x HTTP/1.1\r\nHost: h\r\nX\x01: y\r\n\r\n",
		"GET /x HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
	} {
		for range 20 {
			if got := ask(request); got != "400 Bad Request" {
				t.Errorf("%q: %s", request, got)
			}
		}
		b.checkIn(request)
	}
	if got := b.lines(); got != "" {
		t.Errorf("malformed requests: it said %d lines, such as %s", strings.Count(got, "\n")+1, strings.Split(got, "\n")[0])
	}
	// An upstream that closes its connection under a large request that it refuses.
	u := testkit.Listen(t)
	go func() {
		for {
			c, err := u.Accept()
			if err != nil {
				return
			}
			io.ReadFull(c, make([]byte, 1000))
			c.Close()
		}
	}()
	hasty := newBench(t, func(c *Config) { c.Upstream = &url.URL{Scheme: "http", Host: u.Addr().String()} })
	for range 5 {
		hasty.do("POST", "/api/v1/checkin", strings.Repeat("x", 32<<20))
	}
	if got := hasty.lines(); got != "" {
		t.Errorf("large requests: it said %s", got)
	}
	for i := range 100 {
		b.up.instead(func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
		b.do("GET", fmt.Sprint("/", i), "")
		b.up.instead(nil)
		b.do("GET", "/", "")
	}
	if n := strings.Count(b.lines(), "\n") + 1; n < 2 || n > 12 {
		t.Errorf("it said %d lines: %s", n, b.lines())
	}
}

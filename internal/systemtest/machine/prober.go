package machine

import (
	"bufio"
	"net"
	"net/http"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Prober repeatedly requests a page from a server inside the machine, each time on a new
// connection, and measures for how long the server does not serve.
type Prober struct {
	stop  chan struct{}
	ended chan struct{}
	out   Outage
}

// Outage is the result of a Prober. A gap lasts from the sending of the last good probe
// before a failed one until the first good answer after it, or until the end. A gap is
// never measured too short, and too long by at most about one period.
type Outage struct {
	Probes, Failed int
	Gaps           int
	Longest, Total time.Duration
}

// Probe starts a prober of http://address/path with this period. address must be literal.
func (m *Machine) Probe(address, path string, period time.Duration) (*Prober, error) {
	p := &Prober{stop: make(chan struct{}), ended: make(chan struct{})}
	entered := make(chan error)
	go func() {
		defer close(p.ended)
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := m.enter(unix.CLONE_NEWNET)
		entered <- err
		if err == nil {
			p.run(address, path, period)
		}
	}()
	return p, <-entered
}

func (p *Prober) run(address, path string, period time.Duration) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	var gap bool
	lastGood := time.Now()
	for {
		sent := time.Now()
		good := answers200(address, path)
		p.out.Probes++
		if !good {
			p.out.Failed++
			gap = true
		} else {
			if gap {
				p.count(time.Since(lastGood))
			}
			gap, lastGood = false, sent
		}
		select {
		case <-p.stop:
			if gap {
				p.count(time.Since(lastGood))
			}
			return
		case <-tick.C:
		}
	}
}

func (p *Prober) count(gap time.Duration) {
	p.out.Gaps++
	p.out.Total += gap
	p.out.Longest = max(p.out.Longest, gap)
}

// Stop ends the probing and returns the result.
func (p *Prober) Stop() Outage {
	close(p.stop)
	<-p.ended
	return p.out
}

// answers200 reports whether the server answers 200. It stays on the calling thread (and so in
// the machine's network), which net/http's client would not.
func answers200(address, path string) bool {
	const patience = 250 * time.Millisecond // loopback answers within a few milliseconds, or the server hangs
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("GET " + path + " HTTP/1.0\r\nHost: " + address + "\r\n\r\n")); err != nil {
		return false
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return false
	}
	r.Body.Close()
	return r.StatusCode == http.StatusOK
}

//go:build systemd

package systemtest

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
)

// TestCheckinSandbox lists where the check-in services could write as root: the gate in its
// database's directory and in a /tmp of its own, the relay nowhere.
func TestCheckinSandbox(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.must("mkdir", "-p", "/run/machinemon-update/directive/agent", "/var/lib/machinemon-update/download")
	places := "/run /run/lock /run/user /run/machinemon-update /run/machinemon-update/directive /run/machinemon-update/directive/agent " +
		"/dev/shm /dev/mqueue /tmp /var/tmp /etc /usr /var/lib /var/lib/machinemon-update/checkin /var/lib/machinemon-update/download"
	for service, want := range map[string]string{
		"machinemon-checkin-gate":  "/tmp /var/tmp /var/lib/machinemon-update/checkin",
		"machinemon-checkin-relay": "",
	} {
		// The file's user is root, since other users are kept out of most of these already.
		b.writeFile("/run/systemd/system/"+service+".service.d/try.conf", `[Service]
Type=oneshot
User=root
Restart=no
ExecStopPost=
ExecStart=
ExecStart=/bin/sh -c 'for d in `+places+`; do if (: >$$d/try) 2>/dev/null; then echo writable $$d; fi; done; echo tried'
`, 0o644)
		b.must("systemctl", "daemon-reload")
		since := b.cursor()
		b.must("systemctl", "start", service+".service")
		b.await(since, func(e machine.Entry) bool { return e["MESSAGE"] == "tried" })
		entries, err := b.JournalSince(t.Context(), since)
		b.ok(err)
		var got []string
		for _, e := range entries {
			if place, ok := strings.CutPrefix(e["MESSAGE"], "writable "); ok {
				got = append(got, place)
			}
		}
		slices.Sort(got)
		allowed := strings.Fields(want)
		slices.Sort(allowed)
		if !slices.Equal(got, allowed) {
			t.Errorf("%s can write in %q, want %q", service, got, allowed)
		}
	}
}

// memoryMax is MemoryMax= of the gate. A machine in a container may have no controller for
// memory, so the test adds up what systemd would count.
const memoryMax = 1536 << 20

// memoryOf returns the greatest size of a process so far, in bytes.
func (b *box) memoryOf(pid string) int {
	b.t.Helper()
	_, rest, _ := strings.Cut(b.must("cat", "/proc/"+pid+"/status"), "VmHWM:")
	kB, err := strconv.Atoi(strings.Fields(rest)[0])
	b.ok(err)
	return kB << 10
}

// buffers returns the memory of the kernel's TCP buffers, in bytes.
func (b *box) buffers() int {
	b.t.Helper()
	_, rest, _ := strings.Cut(b.must("cat", "/proc/net/sockstat"), "TCP: ")
	words := strings.Fields(rest)
	pages, err := strconv.Atoi(words[slices.Index(words, "mem")+1])
	b.ok(err)
	return pages << 12
}

// TestCheckinFlood opens 2,500 connections of each kind to the gate, each with 1 MiB, and checks that
// each check-in between them is answered, and that the unit stays far below MemoryMax=. The
// agent has an address of its own, since MachineMon limits check-ins by it.
func TestCheckinFlood(t *testing.T) {
	once(t)
	t.Parallel()
	b := boot(t)
	b.mmServer()
	const unit = "machinemon-checkin-gate.service"
	b.writeFile("/etc/machinemon-update/checkin-gate.toml", "trusted_proxies = [\"127.0.0.1\"]\n", 0o644)
	b.must("systemctl", "enable", "--quiet", "--now", "machinemon-checkin-gate.socket", "machinemon-checkin-gate-local.socket")
	request := `{"hostname":"web-1","os":"linux","arch":"amd64","client_version":"v0.1.11","client_id":"","checks":[]}`
	checksIn := func() {
		t.Helper()
		if status, got := b.askAt("127.0.0.1:8079", "203.0.113.7", "POST", "/api/v1/checkin", request, false); status != 200 {
			t.Errorf("the check-in: %d %s", status, got)
		}
	}
	checksIn()
	before := b.property(unit, "MainPID")
	mib := strings.Repeat("x", 1<<20)
	var peak int
	for name, sent := range map[string]string{
		"headers":   "GET / HTTP/1.1\r\nHost: h\r\nX: " + mib,
		"check-ins": "POST /api/v1/checkin HTTP/1.1\r\nHost: h\r\nContent-Length: 1048577\r\n\r\n" + mib,
	} {
		var mu sync.Mutex
		var open []net.Conn
		for range 10 {
			var opening sync.WaitGroup
			for range 10 {
				opening.Go(func() {
					for range 25 {
						c, err := b.Dial(t.Context(), "tcp", "127.0.0.1:8079")
						if err != nil {
							t.Error(err)
							return
						}
						c.SetWriteDeadline(time.Now().Add(time.Second))
						io.WriteString(c, sent)
						mu.Lock()
						open = append(open, c)
						mu.Unlock()
					}
				})
			}
			opening.Wait()
			checksIn()
			peak = max(peak, b.memoryOf(before)+b.buffers())
		}
		for _, c := range open {
			c.Close()
		}
		t.Logf("%d connections with %s of 1 MiB: at most %d MiB", len(open), name, peak>>20)
	}
	if limit := b.property(unit, "MemoryMax"); limit != fmt.Sprint(memoryMax) || peak > memoryMax/2 {
		t.Errorf("it took %d MiB of MemoryMax=%s", peak>>20, limit)
	}
	if now := b.property(unit, "MainPID"); now != before {
		t.Errorf("the gate was process %s, and is %s now", before, now)
	}
	entries, err := b.JournalSince(t.Context(), "")
	b.ok(err)
	for _, e := range entries {
		if strings.Contains(e["MESSAGE"], "cannot reach the MachineMon server") {
			t.Errorf("it said %s", e["MESSAGE"])
		}
	}
}

// TestRelayStrangers: while another user of the machine keeps 600 connections to the relay
// busy, the agent's check-ins are all answered, each in time.
func TestRelayStrangers(t *testing.T) {
	t.Parallel()
	c := newChain(t, testdUnit, testdTarget)
	c.mmServer()
	c.writeFile("/etc/machinemon-update/checkin-relay.toml", "server_url = \"http://127.0.0.1:8080\"\ntarget = \"testd\"\n", 0o644)
	c.must("systemctl", "enable", "--quiet", "--now", "machinemon-checkin-relay.socket")
	// A connection that the relay closes must not end the crowd by SIGPIPE.
	const crowd = `trap '' PIPE; for i in $(seq 6); do (
	while :; do
		for n in $(seq 10 109); do eval "exec $n<>/dev/tcp/127.0.0.1/478" 2>/dev/null; done
		for n in $(seq 10 109); do printf 'POST /api/v1/checkin HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}' >&$n; done 2>/dev/null
		for n in $(seq 10 109); do read -t 1 -u $n line && [ "${line#HTTP/1.1 403}" != "$line" ] && : >/run/crowd/there; eval "exec $n>&-"; done 2>/dev/null
	done ) & done; wait`
	c.must("install", "-d", "-o", "nobody", "/run/crowd")
	p := c.start(asUser("nobody", "nogroup", "bash", "-c", crowd)...)
	c.ok(machine.WaitFor(t.Context(), "the crowd is there", func() bool { return len(c.list("/run/crowd")) > 0 }))
	for i := range 20 {
		begun := time.Now()
		if status, got := c.askAt(relayAt, "", "POST", "/api/v1/checkin", fmt.Sprintf(`{"hostname":"a%d"}`, i), false); status != 200 {
			t.Errorf("check-in %d: %d %s", i, status, got)
		}
		t.Logf("check-in %d took %s", i, time.Since(begun))
	}
	c.must("pkill", "-u", "nobody", "bash")
	c.wait(p)
}

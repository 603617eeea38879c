package health

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// bound returns a free address that a socket has until the test ends, and does not listen.
// It reuses addresses while it is bound and, if reuse is set, also afterwards.
func bound(t *testing.T, family int, reuse bool) string {
	t.Helper()
	s, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	testkit.Must(t, err)
	t.Cleanup(func() { unix.Close(s) })
	testkit.Must(t, unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	to := unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if family == unix.AF_INET6 {
		to = &unix.SockaddrInet6{Addr: [16]byte{15: 1}}
	}
	testkit.Must(t, unix.Bind(s, to))
	if !reuse {
		testkit.Must(t, unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0))
	}
	got, err := unix.Getsockname(s)
	testkit.Must(t, err)
	if at, ok := got.(*unix.SockaddrInet6); ok {
		return fmt.Sprintf("[::1]:%d", at.Port)
	}
	return fmt.Sprintf("127.0.0.1:%d", got.(*unix.SockaddrInet4).Port)
}

// TestContest checks that a release is not judged bad if another program has the address
// of its probe, even one that does not listen, which no list of sockets shows.
func TestContest(t *testing.T) {
	const held = "another program than x.service has the address "
	free := func(t *testing.T) string {
		var address string
		t.Run("free", func(t *testing.T) { address = bound(t, unix.AF_INET, false) }) // and then closed
		return address
	}
	for name, c := range map[string]struct {
		address func(t *testing.T) string
		http    bool
		foreign bool
		says    string // "": the release is bad
	}{
		"a free address":                          {address: free},
		"a socket that does not listen":           {address: func(t *testing.T) string { return bound(t, unix.AF_INET, false) }, says: held},
		"the same, by IPv6":                       {address: func(t *testing.T) string { return bound(t, unix.AF_INET6, false) }, says: held},
		"the same, with an http probe":            {address: func(t *testing.T) string { return bound(t, unix.AF_INET, false) }, http: true, says: held},
		"one beside which the unit can listen":    {address: func(t *testing.T) string { return bound(t, unix.AF_INET, true) }},
		"a probe that any program may answer":     {address: func(t *testing.T) string { return bound(t, unix.AF_INET, false) }, foreign: true},
		"an address that this machine lacks":      {address: func(*testing.T) string { return "192.0.2.1:9" }},
		"a port that only root and the unit have": {address: func(*testing.T) string { return "127.0.0.1:1" }},
	} {
		t.Run(name, func(t *testing.T) {
			probe := target.Probe{TCP: c.address(t), Foreign: c.foreign}
			if c.http {
				probe = target.Probe{HTTP: "http://" + probe.TCP + "/healthz", ExpectStatus: 200}
			}
			p := plan{
				units:  []subject{{unit: "x.service"}},
				probes: probers(target.Health{Probes: []target.Probe{probe}}, nil),
				peers:  peers{manager: fakeUnits{is: map[string]systemd.Unit{"x.service": {Name: "x.service"}}}},
			}
			out := outcome{finding: state.FindingBad, reason: "its main process ended", standing: c.http}
			testkit.Must(t, p.contest(t.Context(), &out))
			want := state.FindingBad
			if c.says != "" {
				want = state.FindingUnsure
			}
			if out.finding != want || !strings.Contains(out.reason, c.says) || !strings.HasPrefix(out.reason, "its main process ended") {
				t.Errorf("%s: %s; want %s, %q", out.finding, out.reason, want, c.says)
			}
		})
	}
}

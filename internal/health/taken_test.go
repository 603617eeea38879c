package health

import (
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
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

// leftBehind returns the path of a socket of another user that does not listen, in a
// directory with this mode.
func leftBehind(t *testing.T, mode os.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	bindTo(t, path)
	testkit.Must(t, os.Lchown(path, 61234, 61234))
	testkit.Must(t, os.Chmod(dir, mode))
	return path
}

// bindTo gives a Unix socket that does not listen the address until the test ends.
func bindTo(t *testing.T, name string) string {
	t.Helper()
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	testkit.Must(t, err)
	t.Cleanup(func() { unix.Close(s) })
	testkit.Must(t, unix.Bind(s, &unix.SockaddrUnix{Name: name}))
	return name
}

// TestTaken: only a refused connection shows that nothing listens at an address that a socket
// has.
func TestTaken(t *testing.T) {
	l := testkit.Listen(t)
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&net.OpError{Op: "dial", Addr: l.Addr(), Err: unix.ECONNREFUSED}, true},
		{&net.OpError{Op: "read", Addr: l.Addr(), Err: unix.ECONNRESET}, false}, // a server has closed the connection
		{&net.OpError{Op: "dial", Err: unix.ECONNREFUSED}, false},
		{unix.ECONNREFUSED, false},
	} {
		if at, is := taken(c.err); is != c.want || is && at != l.Addr().String() {
			t.Errorf("%v: %q, %v", c.err, at, is)
		}
	}
	path := leftBehind(t, 0o777|os.ModeSticky)
	at := &net.UnixAddr{Name: path, Net: "unix"}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&net.OpError{Op: "dial", Addr: at, Err: unix.ECONNREFUSED}, true},
		{&net.OpError{Op: "dial", Addr: at, Err: unix.EACCES}, false},
		{&net.OpError{Op: "dial", Addr: l.Addr(), Err: unix.ECONNREFUSED}, false},
		{unix.ECONNREFUSED, false},
	} {
		if got, owner, is := blocked(c.err, nil); is != c.want || is && (got != path || owner != 61234) {
			t.Errorf("%v: %q of user %d, %v", c.err, got, owner, is)
		}
	}
	refused := func(path string) error {
		return &net.OpError{Op: "dial", Addr: &net.UnixAddr{Name: path, Net: "unix"}, Err: unix.ECONNREFUSED}
	}
	for _, c := range []struct {
		name string
		unit systemd.Unit
		want bool // it is in the way of the unit
	}{
		{"of another user", systemd.Unit{User: "1000", UID: 1000}, true},
		{"of the unit's user, by number", systemd.Unit{User: "agent", UID: 61234}, false},
		{"of the unit's user, in the unit file", systemd.Unit{User: "61234", UID: systemd.NoUID}, false},
		{"perhaps of the user that the unit had", systemd.Unit{User: "x", UID: systemd.NoUID, DynamicUser: true}, false},
		{"of no user of the unit's name", systemd.Unit{User: "nobody", UID: systemd.NoUID}, true},
		{"of no user of the unit's number", systemd.Unit{User: "nobody", UID: 1000}, true},
	} {
		if _, _, is := blocked(refused(path), []systemd.Unit{c.unit}); is != c.want {
			t.Errorf("%s: %v", c.name, is)
		}
	}
	nobody, err := user.Lookup("nobody")
	testkit.Must(t, err)
	uid, err := strconv.Atoi(nobody.Uid)
	testkit.Must(t, err)
	testkit.Must(t, os.Lchown(path, uid, -1))
	for number, want := range map[uint32]bool{systemd.NoUID: false, 1000: true} { // systemd knows it better than the name
		if _, _, is := blocked(refused(path), []systemd.Unit{{User: "nobody", UID: number}}); is != want {
			t.Errorf("of nobody, and the unit has %d: %v", number, is)
		}
	}
	testkit.Must(t, os.Lchown(path, 0, -1)) // root may remove it for the unit
	if _, _, is := blocked(refused(path), nil); is {
		t.Error("root's file is in the way")
	}
	if _, _, is := blocked(refused(path+".none"), nil); is {
		t.Error("a missing file is in the way")
	}
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
		grpc    bool
		unix    bool
		user    string // of the unit
		foreign bool
		excused bool
		is      systemd.Unit // more of the unit
		files   bool         // the release changes a unit file
		says    string       // "": the release is bad
	}{
		"a free address":                            {address: free},
		"a socket that does not listen":             {address: func(t *testing.T) string { return bound(t, unix.AF_INET, false) }, says: held},
		"the same, by IPv6":                         {address: func(t *testing.T) string { return bound(t, unix.AF_INET6, false) }, says: held},
		"the same, with an http probe":              {address: func(t *testing.T) string { return bound(t, unix.AF_INET, false) }, http: true, says: held},
		"the same, with a grpc probe":               {address: func(t *testing.T) string { return bound(t, unix.AF_INET, false) }, grpc: true, says: held},
		"one beside which the unit can listen":      {address: func(t *testing.T) string { return bound(t, unix.AF_INET, true) }},
		"a probe that failed before the swap, too":  {address: func(t *testing.T) string { return bound(t, unix.AF_INET, false) }, excused: true},
		"a probe that any program may answer":       {address: func(t *testing.T) string { return bound(t, unix.AF_INET, false) }, foreign: true},
		"an address that this machine lacks":        {address: func(*testing.T) string { return "192.0.2.1:9" }},
		"an abstract socket that does not listen":   {unix: true, address: func(t *testing.T) string { return bindTo(t, "@machinemon-update-test-contest") }, says: held},
		"a free abstract socket":                    {unix: true, address: func(*testing.T) string { return "@machinemon-update-test-free" }},
		"another user's socket":                     {unix: true, address: func(t *testing.T) string { return leftBehind(t, 0o777|os.ModeSticky) }, says: "a file of user 61234, at which nothing listens, is at "},
		"the socket of the unit's user":             {unix: true, user: "61234", address: func(t *testing.T) string { return leftBehind(t, 0o777|os.ModeSticky) }},
		"a socket where only the unit makes files":  {unix: true, address: func(t *testing.T) string { return leftBehind(t, 0o755) }},
		"a socket of root that is left over":        {unix: true, address: func(t *testing.T) string { return bindTo(t, filepath.Join(t.TempDir(), "s")) }},
		"a unit that is frozen":                     {address: free, is: systemd.Unit{Frozen: true}, says: "; somebody has frozen x.service"},
		"a start for which systemd lacks something": {address: free, is: systemd.Unit{Result: "resources"}, says: "its main process ended"},
		"the same, with a new unit file":            {address: free, is: systemd.Unit{Result: "resources"}, files: true},
		"a port that only root and the unit have":   {address: func(*testing.T) string { return "127.0.0.1:1" }},
	} {
		t.Run(name, func(t *testing.T) {
			probe := target.Probe{TCP: c.address(t), Foreign: c.foreign}
			switch {
			case c.unix:
				probe.TCP, probe.Unix = "", probe.TCP
			case c.http:
				probe = target.Probe{HTTP: "http://" + probe.TCP + "/healthz", ExpectStatus: 200}
			case c.grpc:
				probe = target.Probe{GRPC: "http://" + probe.TCP}
			}
			c.is.Name, c.is.User, c.is.UID = "x.service", c.user, systemd.NoUID
			p := plan{
				unitFile: c.files,
				units:    []subject{{unit: "x.service"}},
				probes:   probers(target.Health{Probes: []target.Probe{probe}}, nil),
				peers:    peers{manager: fakeUnits{is: map[string]systemd.Unit{"x.service": c.is}}},
			}
			p.probes[0].excused = c.excused
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

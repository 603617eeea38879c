package health

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// listenIn is the variable of the child of listener: what it listens to.
const listenIn = "HEALTH_TEST_LISTEN"

// TestListener is not a test, but the child of listener.
func TestListener(t *testing.T) {
	what := os.Getenv(listenIn)
	if what == "" {
		t.Skip("only the child of another test")
	}
	network, address, _ := strings.Cut(what, " ")
	deferred := network == "deferred"
	if deferred || network == "closing" {
		network = "tcp"
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) {
			if deferred {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 5)
			}
		})
		return errors.Join(err, cerr)
	}}
	l, err := config.Listen(t.Context(), network, address)
	testkit.Must(t, err)
	fmt.Println("listens at", l.Addr())
	if strings.HasPrefix(what, "closing") {
		for {
			c, err := l.Accept()
			testkit.Must(t, err)
			c.Close()
		}
	}
	io.Copy(io.Discard, os.Stdin) // until the other test ends
}

// group makes a control group, and returns its path in the tree.
func group(t *testing.T, path string) string {
	t.Helper()
	tree, err := groupTree()
	if err == nil {
		err = os.Mkdir(filepath.Join(tree, path), 0o755)
	}
	if err != nil {
		t.Skip("this test makes control groups v2: ", err)
	}
	t.Cleanup(func() { os.Remove(filepath.Join(tree, path)) })
	return path
}

// listener starts a process in a control group that listens. It returns the address and
// the process.
func listener(t *testing.T, path, what string) (string, int) {
	t.Helper()
	tree, err := groupTree()
	testkit.Must(t, err)
	dir, err := os.Open(filepath.Join(tree, path))
	testkit.Must(t, err)
	defer dir.Close()
	c := exec.Command(os.Args[0], "-test.run=^TestListener$")
	c.Env = append(os.Environ(), listenIn+"="+what)
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	in, err := c.StdinPipe()
	testkit.Must(t, err)
	out, err := c.StdoutPipe()
	testkit.Must(t, err)
	testkit.Must(t, c.Start())
	t.Cleanup(func() {
		in.Close()
		c.Process.Kill()
		c.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if address, ok := strings.CutPrefix(lines.Text(), "listens at "); ok {
			return address, c.Process.Pid
		}
	}
	t.Fatal("the child does not listen")
	return "", 0
}

// fakeUnits is a systemd with several units.
type fakeUnits struct {
	fake
	is map[string]systemd.Unit
}

func (u fakeUnits) Unit(_ context.Context, name string) (systemd.Unit, error) {
	if s, ok := u.is[name]; ok {
		return s, nil
	}
	return systemd.Unit{}, errors.New("no such unit: " + name)
}

// TestPeers shows that an answer counts only if a socket of the unit gave it.
func TestPeers(t *testing.T) {
	base := fmt.Sprintf("/machinemon-health-%d", os.Getpid())
	ours := group(t, base+".service")
	below := group(t, ours+"/worker")
	socket := group(t, base+".socket")
	init := group(t, base+".init")
	stranger := group(t, base+".stranger")
	const no = "another program than x.service answers: a program of control group "

	for _, c := range []struct {
		name, group, what string
		triggers          []string // fakeUnits that trigger the unit
		foreign           bool
		want              string // the beginning of the error; "" if the probe passes
	}{
		{name: "the unit", group: ours, what: "tcp4 127.0.0.1:0"},
		{name: "the unit, by IPv6", group: ours, what: "tcp6 [::1]:0"},
		{name: "the unit, on all addresses of both families", group: ours, what: "tcp [::]:0"},
		{name: "a group below the unit's", group: below, what: "tcp 127.0.0.1:0"},
		{name: "the unit, which waits for data", group: ours, what: "deferred 127.0.0.1:0"},
		{name: "the unit, which closes at once", group: ours, what: "closing 127.0.0.1:0"},
		{name: "another program", group: stranger, what: "tcp4 127.0.0.1:0", want: no + stranger + " (hint: ss -ltnp"},
		{name: "another program, by IPv6", group: stranger, what: "tcp6 [::1]:0", want: no + stranger},
		{name: "another program, on all addresses of both families", group: stranger, what: "tcp [::]:0", want: no + stranger},
		{name: "another program, which waits for data", group: stranger, what: "deferred 127.0.0.1:0", want: no + stranger},
		{name: "another program, by IPv6, which waits for data", group: stranger, what: "deferred [::1]:0", want: no + stranger},
		{name: "another program, which closes at once", group: stranger, what: "closing 127.0.0.1:0", want: no + stranger},
		{name: "a proxy", group: stranger, what: "tcp 127.0.0.1:0", foreign: true},
		{name: "a group that only begins with the same name", group: socket, what: "tcp 127.0.0.1:0", want: no + socket},
		{name: "the unit's socket unit", group: socket, what: "tcp 127.0.0.1:0", triggers: []string{"x.timer", "x.socket"}},
		{name: "systemd for the unit's socket unit", group: init, what: "tcp 127.0.0.1:0", triggers: []string{"x.socket"}},
		{name: "systemd for another unit", group: init, what: "tcp 127.0.0.1:0", triggers: []string{"x.timer"}, want: no + init},
		{name: "systemd, and the socket unit is stopped", group: init, what: "tcp 127.0.0.1:0", triggers: []string{"stopped.socket"}, want: no + init},
		{name: "another program in place of the socket unit", group: stranger, what: "tcp 127.0.0.1:0", triggers: []string{"x.socket"}, want: no + stranger},
		{name: "the unit, locally", group: below, what: "unix " + filepath.Join(t.TempDir(), "a")},
		{name: "another program, locally", group: stranger, what: "unix " + filepath.Join(t.TempDir(), "b"), want: "another program than x.service answers: process "},
		{name: "a proxy, locally", group: stranger, what: "unix " + filepath.Join(t.TempDir(), "c"), foreign: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			address, pid := listener(t, c.group, c.what)
			who := peers{unit: systemd.Unit{Name: "x.service", ControlGroup: ours, Triggers: c.triggers, UID: systemd.NoUID}, inspect: inspect,
				manager: fakeUnits{fake{pids: []int{os.Getpid()}}, map[string]systemd.Unit{
					"x.socket": {Active: "active", ControlGroup: socket}, "stopped.socket": {Active: "inactive", ControlGroup: socket},
					"init.scope": {Active: "active", ControlGroup: init}}}}
			if strings.HasPrefix(c.group, ours) {
				who.manager = fakeUnits{fake: fake{pids: []int{os.Getpid(), pid}}}
			}
			p := target.Probe{TCP: address, Foreign: c.foreign}
			if strings.HasPrefix(c.what, "unix") {
				p = target.Probe{Unix: address, Foreign: c.foreign}
			}
			if p.TCP != "" && strings.HasPrefix(p.TCP, "[::]") { // also reached by IPv4
				p.TCP = "127.0.0.1" + strings.TrimPrefix(p.TCP, "[::]")
			}
			err := try(t.Context(), probers(target.Health{Probes: []target.Probe{p}}, nil)[0], who, answerLimit)
			if _, is := errors.AsType[unowned](err); is != (c.want != "") || is && !strings.HasPrefix(err.Error(), c.want) || !is && err != nil {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// TestPeersListener shows which process may have called listen(2) at a Unix socket.
func TestPeersListener(t *testing.T) {
	gone := exec.Command("/bin/true")
	testkit.Must(t, gone.Run())
	daemon := exec.Command("/bin/sleep", "60")
	daemon.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 61234, Gid: 61234}}
	testkit.Must(t, daemon.Start())
	defer daemon.Wait()
	defer daemon.Process.Kill()
	other := exec.Command("/bin/sleep", "60")
	testkit.Must(t, other.Start())
	defer other.Wait()
	defer other.Process.Kill()
	for _, c := range []struct {
		name     string
		pid      int
		uid      uint32
		user     uint32 // of the unit
		triggers []string
		want     bool
	}{
		{"the daemon, as itself", daemon.Process.Pid, 61234, systemd.NoUID, nil, true},
		{"the daemon, while it was root", daemon.Process.Pid, 0, systemd.NoUID, nil, true},
		{"a process whose number the daemon has now", daemon.Process.Pid, 1000, systemd.NoUID, nil, false},
		{"another program of the same user", other.Process.Pid, 61234, 61234, nil, false},
		{"the parent of the daemon, which has ended", gone.Process.Pid, 61234, systemd.NoUID, nil, true},
		{"the parent, as the user of the unit", gone.Process.Pid, 61235, 61235, nil, true},
		{"the parent, while it was root", gone.Process.Pid, 0, 61234, nil, true},
		{"another program, which has ended", gone.Process.Pid, 1000, systemd.NoUID, nil, false},
		{"a process of another PID namespace", 0, 61234, 61234, nil, false},
		{"systemd", 1, 0, 61234, nil, false},
		{"systemd, for a socket unit", 1, 0, 61234, []string{"x.socket"}, true},
	} {
		who := peers{unit: systemd.Unit{Name: "x.service", UID: c.user, Triggers: c.triggers}, inspect: inspect,
			manager: fakeUnits{fake{pids: []int{daemon.Process.Pid}}, map[string]systemd.Unit{"x.socket": {Active: "active"}, "init.scope": {}}}}
		if got, err := who.listens(t.Context(), c.pid, c.uid); got != c.want || err != nil {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
}

// TestOtherMachine shows that the kernel's answer for an address of another machine, a
// listener on all addresses of this one, does not count.
func TestOtherMachine(t *testing.T) {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	testkit.Must(t, err)
	defer l.Close()
	far := &ends{remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: l.Addr().(*net.TCPAddr).Port}, local: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}}
	if id, err := servingGroup(far); !errors.Is(err, errNoSocket) {
		t.Errorf("another machine: %d, %v", id, err)
	}
	near := &ends{remote: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: far.remote.Port}, local: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}}
	if id, err := servingGroup(near); id == 0 || err != nil {
		t.Errorf("this machine: %d, %v", id, err)
	}
	// A connection from an address of this machine to the same one stays on this machine.
	own := &ends{remote: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: far.remote.Port}, local: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}}
	if id, err := servingGroup(own); id == 0 || err != nil {
		t.Errorf("this machine, not by its loopback: %d, %v", id, err)
	}
	l.Close()
	if id, err := servingGroup(near); !errors.Is(err, errNoSocket) {
		t.Errorf("no listener: %d, %v", id, err)
	}
	for _, a := range []string{"127.0.0.1", "::1"} {
		if n := len(padded(netip.MustParseAddr(a))); n != 16 {
			t.Errorf("%s takes %d bytes", a, n)
		}
	}
}

// ends is a connection of which only the addresses are known.
type ends struct {
	net.Conn
	local, remote *net.TCPAddr
}

func (e *ends) LocalAddr() net.Addr  { return e.local }
func (e *ends) RemoteAddr() net.Addr { return e.remote }

// TestSecretOfProbe shows that another program receives no request of a probe, which may
// hold a secret, whatever the transport.
func TestSecretOfProbe(t *testing.T) {
	hand(t, "/h", "Authorization: Bearer hunter2\n")
	socket := filepath.Join(t.TempDir(), "s")
	for _, c := range []struct {
		network, address string
		probe            func(address string) target.Probe
	}{
		{"tcp", "127.0.0.1:0", func(at string) target.Probe { return target.Probe{HTTP: "http://" + at + "/?token=hunter2"} }},
		{"tcp", "127.0.0.1:0", func(at string) target.Probe { return target.Probe{HTTP: "https://" + at, InsecureSkipTLS: true} }},
		{"tcp", "127.0.0.1:0", func(at string) target.Probe { return target.Probe{GRPC: "http://" + at} }},
		{"tcp", "127.0.0.1:0", func(at string) target.Probe { return target.Probe{GRPC: "https://" + at, InsecureSkipTLS: true} }},
		{"unix", socket, func(at string) target.Probe { return target.Probe{HTTP: "http://localhost", Unix: at} }},
		{"unix", socket, func(at string) target.Probe {
			return target.Probe{HTTP: "https://localhost", Unix: at, InsecureSkipTLS: true}
		}},
		{"unix", socket, func(at string) target.Probe { return target.Probe{GRPC: "http://localhost", Unix: at} }},
	} {
		l, err := net.Listen(c.network, c.address)
		testkit.Must(t, err)
		sent := make(chan []byte, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				sent <- []byte(err.Error())
				return
			}
			b, _ := io.ReadAll(c)
			sent <- b
		}()
		probe := c.probe(l.Addr().String())
		probe.HeadersFile = "/h"
		p := probers(target.Health{Probes: []target.Probe{probe}}, nil)[0]
		err = try(t.Context(), p, peers{unit: systemd.Unit{Name: "x.service"}, manager: fakeUnits{fake: fake{pids: []int{1}}}, inspect: inspect}, answerLimit)
		if _, ok := errors.AsType[unowned](err); !ok || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", probe, err)
		}
		if b := <-sent; len(b) > 0 {
			t.Errorf("%s: it was sent %q", probe, b)
		}
		l.Close()
	}
}

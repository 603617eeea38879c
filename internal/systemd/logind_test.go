package systemd

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// fakeLogind is logind on a bus of the test.
type fakeLogind struct {
	locks []Inhibitor
	taken chan lock
}

// lock is a lock that logind was asked for: the write end of a pipe, whose read end tells when
// nobody has the lock any more.
type lock struct {
	of        string
	ends, own *os.File
}

func (l *fakeLogind) ListInhibitors() ([]Inhibitor, *godbus.Error) { return l.locks, nil }

func (l *fakeLogind) Inhibit(what, who, why, mode string) (godbus.UnixFD, *godbus.Error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, godbus.MakeFailedError(err)
	}
	fd := w.Fd()
	l.taken <- lock{strings.Join([]string{what, who, why, mode}, "|"), r, w}
	return godbus.UnixFD(fd), nil
}

// newBus starts a bus, which becomes that of the machine.
func newBus(t *testing.T) *godbus.Conn {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "bus.conf")
	testkit.Must(t, os.WriteFile(config, []byte(`<busconfig><type>system</type><listen>unix:path=`+dir+`/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`), 0o600))
	cmd := exec.Command("dbus-daemon", "--nofork", "--config-file="+config, "--print-address=1")
	ready, err := cmd.StdoutPipe()
	testkit.Must(t, err)
	testkit.Must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the bus does not start: %v", err)
	}
	saved := systemBus
	systemBus = "unix:path=" + dir + "/bus"
	t.Cleanup(func() { systemBus = saved })
	conn, err := godbus.Connect(systemBus)
	testkit.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestLogind asks logind for locks, and takes one.
func TestLogind(t *testing.T) {
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		t.Skip("there is no dbus-daemon")
	}
	bus := newBus(t)
	var c Conn
	nobody := func() {
		t.Helper()
		if all, err := c.Inhibitors(t.Context()); err != nil || all != nil {
			t.Errorf("without logind: %v, %v", all, err)
		}
		release, err := c.Delay(t.Context(), "why")
		testkit.Must(t, err)
		release()
	}
	nobody()
	l := &fakeLogind{taken: make(chan lock, 1), locks: []Inhibitor{
		{"sleep", "upower", "", "block", 0, 1}, {"handle-lid-switch:shutdown", "apt", "packages", "block", 0, 2},
		{"shutdown", "others", "", "delay", 0, 3}, {"shutdown", "desktop", "", "block-weak", 1000, 4}}}
	testkit.Must(t, bus.Export(l, "/org/freedesktop/login1", "org.freedesktop.login1.Manager"))
	if _, err := bus.RequestName("org.freedesktop.login1", godbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	all, err := c.Inhibitors(t.Context())
	if err != nil || len(all) != 2 || all[0].Who != "apt" || all[0].PID != 2 || all[1].Who != "desktop" {
		t.Errorf("locks: %+v, %v", all, err)
	}
	release, err := c.Delay(t.Context(), "installing 1.2.0")
	testkit.Must(t, err)
	taken := <-l.taken
	defer taken.ends.Close()
	testkit.Must(t, taken.own.Close())
	if taken.of != "shutdown|machinemon-update|installing 1.2.0|delay" {
		t.Errorf("taken: %q", taken.of)
	}
	testkit.Must(t, taken.ends.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	if _, err := taken.ends.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the lock is not held: %v", err)
	}
	release()
	testkit.Must(t, taken.ends.SetReadDeadline(time.Now().Add(10*time.Second)))
	if _, err := taken.ends.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the lock is not given back: %v", err)
	}
	systemBus = "unix:path=/nowhere/bus"
	nobody()
}

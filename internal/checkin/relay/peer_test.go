package relay

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// head is the first line of the kernel's tables; the addresses are little-endian.
const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func TestOwner(t *testing.T) {
	const v4 = head +
		"   0: 0100007F:01DE 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0000000000000000 100 0 0 10 0\n" +
		"   1: 0100007F:01DE 0100007F:D1B4 01 00000000:00000000 00:00000000 00000000     0        0 101 1 0000000000000000 20 4 30 10 -1\n" +
		"   2: 0200007F:D1B4 0100007F:01DE 01 00000000:00000000 00:00000000 00000000     7        0 102 1 0000000000000000 20 4 30 10 -1\n" +
		"   3: 0100007F:D1B4 0200007F:01DE 01 00000000:00000000 00:00000000 00000000     8        0 103 1 0000000000000000 20 4 30 10 -1\n" +
		"   4: 0100007F:D1B4 0100007F:01DE 01 00000000:00000000 00:00000000 00000000  1000        0 104 1 0000000000000000 20 4 30 10 -1\n" +
		"   5: 0100007F:D1B5 0100007F:01DE 06 00000000:00000000 03:00001770 00000000     0        0 0 3 0000000000000000\n" +
		"   6: 0100007F:D1B6 0100007F:01DE 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0000000000000000 20 4 30 10 -1\n" +
		"   7: 0100007F:D1B7 0100007F:01DE 05 00000000:00000000 00:00000000 00000000     0        0 107 1 0000000000000000 20 4 30 10 -1\n" +
		"   8: 0100007F:D1B8 0100007F:01DE 01 00000000:00000000 00:00000000 00000000    -1        0 108 1 0000000000000000 20 4 30 10 -1\n" +
		"garbage\n"
	const v6 = head +
		"   0: 00000000000000000000000001000000:D1B4 00000000000000000000000001000000:01DE 01 00000000:00000000 00:00000000 00000000  1001        0 200 1 0 20 4 30 10 -1\n" +
		"   1: 0000000000000000FFFF00000100007F:D1B9 0000000000000000FFFF00000100007F:01DE 01 00000000:00000000 00:00000000 00000000  1002        0 201 1 0 20 4 30 10 -1\n"
	for _, c := range []struct {
		table, client, here string
		uid                 uint32
		none                bool
	}{
		{v4, "127.0.0.1:53684", "127.0.0.1:478", 1000, false},
		{v4, "[::ffff:127.0.0.1]:53684", "127.0.0.1:478", 1000, false},
		{v4, "127.0.0.2:53684", "127.0.0.1:478", 7, false},
		{v4, "127.0.0.1:53684", "127.0.0.2:478", 8, false},
		{v4, "127.0.0.1:53685", "127.0.0.1:478", 0, true}, // closed, so the kernel shows it as root's
		{v4, "127.0.0.1:53686", "127.0.0.1:478", 0, true}, // no process has it open
		{v4, "127.0.0.1:53687", "127.0.0.1:478", 0, true}, // its end was closed
		{v4, "127.0.0.1:53688", "127.0.0.1:478", 0, true},
		{v4, "192.0.2.1:53684", "127.0.0.1:478", 0, true},
		{v4, "127.0.0.1:478", "127.0.0.1:53684", 0, false}, // the server's end of the connection
		{v6, "[::1]:53684", "[::1]:478", 1001, false},
		{v6, "127.0.0.1:53689", "127.0.0.1:478", 1002, false},
		{v6, "127.0.0.1:53684", "127.0.0.1:478", 0, true},
		{"", "127.0.0.1:53684", "127.0.0.1:478", 0, true},
	} {
		all := map[ends]uint32{}
		err := readOwners(strings.NewReader(c.table), all)
		uid, found := all[ends{canonical(netip.MustParseAddrPort(c.client)), canonical(netip.MustParseAddrPort(c.here))}]
		if uid != c.uid || found == c.none || err != nil {
			t.Errorf("%s to %s: %d, %t, %v", c.client, c.here, uid, found, err)
		}
	}
	if err := readOwners(io.MultiReader(strings.NewReader(head), iotest.ErrReader(errors.New("gone"))), nil); err == nil {
		t.Errorf("a table that cannot be read: %v", err)
	}
}

// TestPeer reads the kernel's own table, for an open and for a closed connection.
func TestPeer(t *testing.T) {
	testkit.Slow(t)
	for _, at := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Log(err) // this machine has no IPv6
			continue
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		to := net.JoinHostPort("127.0.0.1", port)
		if strings.HasPrefix(at, "[") {
			to = l.Addr().String()
		}
		c, err := net.Dial("tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		client, here := netip.MustParseAddrPort(s.RemoteAddr().String()), netip.MustParseAddrPort(s.LocalAddr().String())
		between := ends{canonical(client), canonical(here)}
		all, err := owners()
		if uid, found := all[between]; err != nil || !found || uid != uint32(os.Getuid()) {
			t.Errorf("%s: %d, %t, %v", at, uid, found, err)
		}
		c.Close()
		all, err = owners()
		if uid, found := all[between]; err != nil || found {
			t.Errorf("%s, closed: %d, %v", at, uid, err)
		}
		s.Close()
		l.Close()
	}
}

func TestUnitUID(t *testing.T) {
	for _, c := range []struct {
		unit systemd.Unit
		uid  uint32
		err  string
	}{
		{unit: systemd.Unit{Load: "loaded", UID: systemd.NoUID}},
		{unit: systemd.Unit{Load: "loaded", User: "root", UID: systemd.NoUID}},
		{unit: systemd.Unit{Load: "loaded", User: "root", UID: 0}},
		{unit: systemd.Unit{Load: "loaded", User: "1234", UID: systemd.NoUID}, uid: 1234},
		{unit: systemd.Unit{Load: "loaded", User: "nobody", UID: systemd.NoUID}, uid: 65534},
		{unit: systemd.Unit{Load: "loaded", User: "dynamic", UID: 61234}, uid: 61234},
		{unit: systemd.Unit{Load: "loaded", User: "no-such-user", UID: systemd.NoUID}, err: "mm.service runs as no-such-user, but there is no such user"},
		{unit: systemd.Unit{Load: "not-found", UID: systemd.NoUID}, err: "mm.service is not-found (hint: is the target's unit installed?)"},
		{unit: systemd.Unit{Load: "masked", UID: systemd.NoUID}, err: "mm.service is masked (hint: "},
	} {
		c.unit.Name = "mm.service"
		uid, err := unitUID(c.unit)
		if uid != c.uid || (err == nil) != (c.err == "") || err != nil && !strings.HasPrefix(err.Error(), c.err) {
			t.Errorf("%+v: %d, %v", c.unit, uid, err)
		}
	}
}

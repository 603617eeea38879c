package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// fakeManager is systemd on a bus of the test.
type fakeManager struct {
	bus        *godbus.Conn
	subscribed atomic.Int32
	answer     *godbus.Error        // of Subscribe
	list       func() *godbus.Error // the error of ListUnitsByNames; nil: there is none
	frozen     atomic.Bool          // the units
	thaws      *godbus.Error        // answers ThawUnit
}

func newManager(t *testing.T, bus *godbus.Conn) *fakeManager {
	t.Helper()
	return new(fakeManager).serve(t, bus)
}

func (f *fakeManager) serve(t *testing.T, bus *godbus.Conn) *fakeManager {
	t.Helper()
	f.bus = bus
	testkit.Must(t, bus.Export(f, "/org/freedesktop/systemd1", manager))
	if _, err := bus.RequestName(service, godbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	return f
}

// ListUnitsByNames knows one alias.
func (f *fakeManager) ListUnitsByNames(names []string) (all []dbus.UnitStatus, _ *godbus.Error) {
	if f.list != nil {
		if err := f.list(); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		if name == "alias.service" {
			name = "fetch@agent-1.service"
		}
		all = append(all, dbus.UnitStatus{Name: name, LoadState: "loaded", ActiveState: "inactive", SubState: "dead",
			Path: godbus.ObjectPath("/org/freedesktop/systemd1/unit/" + dbus.PathBusEscape(name)), JobPath: "/"})
	}
	return all, nil
}

func (f *fakeManager) Subscribe() *godbus.Error { f.subscribed.Add(1); return f.answer }

// StartUnit ends the job of another unit, then the one of this. A job's unit has its own name.
func (f *fakeManager) StartUnit(name, mode string) (godbus.ObjectPath, *godbus.Error) {
	if name == "alias.service" {
		name = "fetch@agent-1.service"
	}
	const job = "/org/freedesktop/systemd1/job/7"
	f.bus.Emit("/org/freedesktop/systemd1", manager+".JobRemoved", uint32(7), godbus.ObjectPath(job), "other.service", "failed")
	result := "done"
	if f.frozen.Load() {
		result = "frozen"
	}
	f.bus.Emit("/org/freedesktop/systemd1", manager+".JobRemoved", uint32(7), godbus.ObjectPath(job), name, result)
	return job, nil
}

func (f *fakeManager) ThawUnit(string) *godbus.Error {
	f.frozen.Store(f.thaws != nil)
	return f.thaws
}

func (f *fakeManager) change(t *testing.T, path godbus.ObjectPath, kind string) {
	t.Helper()
	properties := map[string]godbus.Variant{"ActiveState": godbus.MakeVariant("activating")}
	testkit.Must(t, f.bus.Emit(path, changed, service+"."+kind, properties, []string{}))
}

// TestWatch: a program hears of the units that it watches and of its jobs, and of no others. It
// may know a unit by an alias.
func TestWatch(t *testing.T) {
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		t.Skip("there is no dbus-daemon")
	}
	const at, other = "/org/freedesktop/systemd1/unit/fetch_40agent_2d1_2eservice", "/org/freedesktop/systemd1/unit/fetch_40agent_2d2_2eservice"
	bus := newBus(t)
	sd := newManager(t, bus)
	c, err := Connect(t.Context(), "alias.service", "swap@agent-1.service")
	testkit.Must(t, err)
	defer c.Close()
	tick := func(after string) {
		t.Helper()
		select {
		case <-c.Changes():
		case <-time.After(10 * time.Second):
			t.Fatalf("no tick after %s", after)
		}
	}
	tick("the connection")
	heard := make(chan *godbus.Signal, 100)
	c.cur.raw.Signal(heard)
	hears := func(want ...string) {
		t.Helper()
		var got []string
		for len(heard) > 0 {
			s := <-heard
			got = append(got, s.Name+" of "+string(s.Path))
		}
		if !slices.Equal(got, want) {
			t.Errorf("heard of %q, want %q", got, want)
		}
	}
	sd.change(t, other, "Service")
	sd.change(t, other, "Unit")
	sd.change(t, at, "Service")
	sd.change(t, at, "Unit")
	tick("a change")
	hears(changed + " of " + at)
	testkit.Must(t, c.Start(t.Context(), "alias.service"))
	hears(manager + ".JobRemoved of /org/freedesktop/systemd1")

	// systemd executes itself again: it leaves the bus and comes back.
	again, err := godbus.Connect(systemBus)
	testkit.Must(t, err)
	defer again.Close()
	_, err = bus.ReleaseName(service)
	testkit.Must(t, err)
	sd = newManager(t, again)
	for sd.subscribed.Load() == 0 { // more than one signal may announce that
		tick("systemd came back")
		testkit.Must(t, c.do(t.Context(), func(*link) error { return nil }))
	}
	tick("the new connection")
	sd.change(t, at, "Unit")
	tick("a change of the new systemd")
}

// TestDial: root does without a bus that is absent or hangs, and what undoes a trial does not
// try it.
func TestDial(t *testing.T) {
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		t.Skip("there is no dbus-daemon")
	}
	newBus(t)
	root := os.Geteuid() == 0
	private, limit := privateSocket, busTime
	t.Cleanup(func() { privateSocket, busTime = private, limit })
	privateSocket, busTime = systemBus, time.Second // it lets a client in, as systemd does
	hangs := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", hangs)
	testkit.Must(t, err)
	defer l.Close()
	for _, c := range []struct {
		bus       string
		private   bool
		overBus   bool
		reachable bool
	}{
		{systemBus, false, true, true},
		{systemBus, true, !root, true},
		{"unix:path=/nowhere/bus", false, false, root},
		{"unix:path=" + hangs, false, false, root},
		{"unix:path=/nowhere/bus", true, false, root},
	} {
		systemBus = c.bus
		conn, bus, err := dial(t.Context(), c.private)
		if (err == nil) != c.reachable || err == nil && bus != c.overBus {
			t.Errorf("bus %s, private %v: over the bus %v, %v", c.bus, c.private, bus, err)
		}
		if err == nil {
			conn.Close()
		}
	}
}

// TestWithoutAnswer: a caller does not wait longer than its context for a systemd that lets
// it in and does not answer, nor for another caller that waits for that.
func TestWithoutAnswer(t *testing.T) {
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		t.Skip("there is no dbus-daemon")
	}
	bus, asked, wait := newBus(t), make(chan struct{}), make(chan struct{})
	sd := &fakeManager{list: func() *godbus.Error {
		close(asked)
		<-wait
		return nil
	}}
	sd.serve(t, bus)
	defer close(wait)
	c := newConn("agent.service")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- c.do(ctx, func(*link) error { return nil }) }()
	<-asked
	soon, stop := context.WithCancel(t.Context())
	go func() { second <- c.do(soon, func(*link) error { return nil }) }()
	for _, end := range []struct {
		cancel func()
		err    chan error
	}{{stop, second}, {cancel, first}} {
		end.cancel()
		select {
		case err := <-end.err:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("it waits still")
		}
	}
	c.Close()
}

// TestConnectAgain: systemd 257 takes the name of a connection for the one of an earlier
// subscriber after a restart of the bus, and a connection that is lost between two calls is
// made again.
func TestConnectAgain(t *testing.T) {
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		t.Skip("there is no dbus-daemon")
	}
	bus := newBus(t)
	const path = "/org/freedesktop/systemd1/unit/fetch_40agent_2d1_2eservice"
	var lists atomic.Int32
	sd := &fakeManager{answer: godbus.NewError("org.freedesktop.systemd1.AlreadySubscribed", []any{"Client is already subscribed."}),
		list: func() *godbus.Error {
			if lists.Add(1) == 1 {
				return godbus.NewError("org.freedesktop.DBus.Error.NoReply", nil)
			}
			return nil
		}}
	sd.serve(t, bus)
	c, err := Connect(t.Context(), "alias.service")
	testkit.Must(t, err)
	defer c.Close()
	<-c.Changes() // the connection
	sd.change(t, path, "Unit")
	select {
	case <-c.Changes():
	case <-time.After(5 * time.Second):
		t.Error("no tick after a change of the unit with the alias")
	}
}

// TestManyUnits watches, and starts, more units than the bus allows rules of a connection.
func TestManyUnits(t *testing.T) {
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		t.Skip("there is no dbus-daemon")
	}
	const many = 513
	sd := newManager(t, newBus(t))
	var names []string
	for i := range many {
		names = append(names, fmt.Sprintf("agent-%d.service", i))
	}
	c, err := Connect(t.Context(), names...)
	testkit.Must(t, err)
	defer c.Close()
	<-c.Changes() // the connection
	sd.change(t, "/org/freedesktop/systemd1/unit/agent_2d512_2eservice", "Unit")
	select {
	case <-c.Changes():
	case <-time.After(5 * time.Second):
		t.Error("no tick after a change of the last unit")
	}
	for _, name := range names {
		if err := c.Start(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFrozen: a job of a frozen unit is tried again, once, after the unit was thawed.
func TestFrozen(t *testing.T) {
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		t.Skip("there is no dbus-daemon")
	}
	parent := godbus.NewError("org.freedesktop.systemd1.FrozenByParent", []any{"Unit is frozen by a parent."})
	for _, c := range []struct {
		thaws *godbus.Error
		want  string
	}{
		{nil, ""},
		{parent, `cannot start agent.service: the job ended with "frozen"; cannot thaw it: Unit is frozen by a parent.`},
	} {
		sd := &fakeManager{thaws: c.thaws}
		sd.frozen.Store(true)
		sd.serve(t, newBus(t))
		conn, err := Connect(t.Context())
		testkit.Must(t, err)
		defer conn.Close()
		err = conn.Start(t.Context(), "agent.service")
		if err == nil && c.want != "" || err != nil && err.Error() != c.want {
			t.Errorf("got %v, want %q", err, c.want)
		}
		if _, of := errors.AsType[*JobError](err); err != nil && !of {
			t.Error("the result of the job is not in the error")
		}
	}
}

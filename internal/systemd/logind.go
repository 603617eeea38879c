package systemd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// systemBus is the socket of the bus that logind is on.
var systemBus = "unix:path=/run/dbus/system_bus_socket"

// logindTime limits a call to logind, which answers at once.
const logindTime = 5 * time.Second

// An Inhibitor is a lock of logind that somebody has taken (systemd-inhibit(1)).
type Inhibitor struct {
	What string // what it is against, such as "shutdown:sleep"
	Who  string // both are texts of who took it
	Why  string
	Mode string // "block", "block-weak", "delay" and others
	UID  uint32
	PID  uint32
}

// blocks reports whether the lock keeps the machine from shutting down.
func (i Inhibitor) blocks() bool {
	return strings.HasPrefix(i.Mode, "block") && strings.Contains(":"+i.What+":", ":shutdown:")
}

// Inhibitors returns the locks that keep the machine from shutting down. A machine without
// a bus, or without logind, has none.
func (c *Conn) Inhibitors(ctx context.Context) (blocking []Inhibitor, err error) {
	err = logind(ctx, func(ctx context.Context, manager godbus.BusObject) error {
		var all []Inhibitor
		err := manager.CallWithContext(ctx, manage+"ListInhibitors", godbus.FlagNoAutoStart).Store(&all)
		for _, i := range all {
			if err == nil && i.blocks() {
				blocking = append(blocking, i)
			}
		}
		return err
	})
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot ask logind for locks: %w", err)
	}
	return blocking, nil
}

// Delay asks logind to delay a shutdown until release is called or the process ends, though
// no longer than InhibitDelayMaxSec= (logind.conf(5)). Without logind nothing is delayed.
func (c *Conn) Delay(ctx context.Context, why string) (release func(), err error) {
	var lock godbus.UnixFD
	err = logind(ctx, func(ctx context.Context, manager godbus.BusObject) error {
		return manager.CallWithContext(ctx, manage+"Inhibit", godbus.FlagNoAutoStart, "shutdown", "machinemon-update", why, "delay").Store(&lock)
	})
	if absent(err) {
		return func() {}, nil
	}
	if err != nil {
		return func() {}, fmt.Errorf("cannot ask logind to delay a shutdown: %w", err)
	}
	f := os.NewFile(uintptr(lock), "lock of logind")
	return func() { f.Close() }, nil
}

const manage = "org.freedesktop.login1.Manager."

// logind makes a call to logind, on a connection of its own: root's connection to PID 1
// does not lead to it.
func logind(ctx context.Context, call func(context.Context, godbus.BusObject) error) error {
	ctx, cancel := context.WithTimeout(ctx, logindTime)
	defer cancel()
	conn, err := godbus.Dial(systemBus, godbus.WithContext(ctx))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Auth([]godbus.Auth{godbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		return err
	}
	err = conn.Hello()
	if err == nil {
		err = call(ctx, conn.Object("org.freedesktop.login1", "/org/freedesktop/login1"))
	}
	return cmp.Or(ctx.Err(), err) // the end of ctx closes the connection
}

// absent reports whether err says that there is no bus, or no logind on it.
func absent(err error) bool {
	return lost(err) || errors.Is(err, os.ErrNotExist)
}

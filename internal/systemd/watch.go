package systemd

import (
	"context"
	"fmt"
	"slices"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// changed is the signal of a change of properties. systemd sends it for the interface of the
// unit's type, then for the one of all units, with all their properties that may change.
const changed = "org.freedesktop.DBus.Properties.PropertiesChanged"

// list returns the states of units, and the objects and names that systemd's signals have for
// them, since the given names may be aliases. It is one call, in the order of the names.
func (l *link) list(ctx context.Context, names ...string) ([]dbus.UnitStatus, error) {
	all, err := l.sd.ListUnitsByNamesContext(ctx, names)
	if err == nil && len(all) != len(names) {
		err = fmt.Errorf("systemd lists %d of %d units", len(all), len(names))
	}
	return all, err
}

// property reads a property of one of systemd's objects.
func (l *link) property(ctx context.Context, of godbus.ObjectPath, kind, name string, value any) error {
	return l.raw.Object(service, of).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, kind, name).Store(value)
}

// watch waits for changes of the watched units, and for the return of a systemd that has
// executed itself again.
func (c *Conn) watch(ctx context.Context, l *link) error {
	if !l.bus && len(c.watched) == 0 {
		return nil
	}
	var paths []godbus.ObjectPath
	if len(c.watched) > 0 {
		all, err := l.list(ctx, c.watched...)
		if err != nil {
			return err
		}
		for _, u := range all {
			paths = append(paths, u.Path)
		}
	}
	signals := make(chan *godbus.Signal, 64)
	l.raw.Signal(signals)
	if l.bus {
		if err := l.narrow(ctx, paths); err != nil {
			return err
		}
	}
	if len(paths) > 0 {
		// A bus that was restarted counts its connections from the start again, so this one can
		// have the name of an earlier subscriber, which systemd 257 remembers.
		err := l.call(ctx, "Subscribe").Err
		if err != nil && !isName(err, "org.freedesktop.systemd1.AlreadySubscribed") {
			return err
		}
	}
	go func() {
		for s := range signals { // until the connection ends
			switch {
			case s.Name == changed && len(s.Body) > 1 && s.Body[0] == service+".Unit" && slices.Contains(paths, s.Path):
				if properties, ok := s.Body[1].(map[string]godbus.Variant); ok && c.changed != nil {
					c.changed(properties)
				}
				c.tick()
			case s.Name == "org.freedesktop.DBus.NameOwnerChanged" && len(s.Body) > 2 && s.Body[2] != "":
				c.drop(l) // what changed meanwhile, or which job ended, was not sent
			}
		}
		c.tick()
	}()
	c.tick()
	return nil
}

// narrow asks the bus for the changes of these units, and not for the ends of all jobs, for
// which go-systemd has asked; see [link.expect]. With signals of all units, a program's work,
// and the bus's, would grow with the number of targets that are updated at a time.
func (l *link) narrow(ctx context.Context, paths []godbus.ObjectPath) error {
	if err := l.raw.RemoveMatchSignalContext(ctx, jobRemoved...); err != nil {
		return err
	}
	var objects []godbus.MatchOption
	for _, path := range paths {
		objects = append(objects, godbus.WithMatchObjectPath(path))
	}
	if len(paths) > mostRules {
		objects = []godbus.MatchOption{godbus.WithMatchPathNamespace("/org/freedesktop/systemd1/unit")}
	}
	for _, object := range objects {
		err := l.raw.AddMatchSignalContext(ctx, godbus.WithMatchSender(service), object,
			godbus.WithMatchInterface("org.freedesktop.DBus.Properties"), godbus.WithMatchMember("PropertiesChanged"),
			godbus.WithMatchArg(0, service+".Unit"))
		if err != nil {
			return err
		}
	}
	return l.raw.AddMatchSignalContext(ctx, godbus.WithMatchSender("org.freedesktop.DBus"),
		godbus.WithMatchMember("NameOwnerChanged"), godbus.WithMatchArg(0, service))
}

// mostRules is how many units are asked for one by one: the bus allows 512 rules of a
// connection (max_match_rules_per_connection of dbus-daemon(1)).
const mostRules = 256

var jobRemoved = []godbus.MatchOption{godbus.WithMatchInterface(manager), godbus.WithMatchMember("JobRemoved")}

// expect asks the bus for the ends of a unit's jobs, until enough is called.
func (l *link) expect(ctx context.Context, unit string) (enough func(), err error) {
	if !l.bus {
		return func() {}, nil
	}
	all, err := l.list(ctx, unit)
	if err != nil {
		return func() {}, err
	}
	rule := append(slices.Clone(jobRemoved), godbus.WithMatchArg(2, all[0].Name))
	if err := l.raw.AddMatchSignalContext(ctx, rule...); err != nil {
		return func() {}, err
	}
	return func() {
		// If this fails, the connection has ended, or it is about to end with ctx.
		_ = l.raw.RemoveMatchSignalContext(ctx, rule...)
	}, nil
}

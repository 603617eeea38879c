package command

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

const attempt = "20261101t120000-0badcafe"

// fake is a systemd with the units that the test sets. It calls read before each answer,
// with the number of the look (from 1) and the unit's name.
type fake struct {
	t     *testing.T
	units map[string]systemd.Unit
	looks int
	read  func(look int, name string)
	ticks chan struct{}
	err   error
}

func (f *fake) Units(ctx context.Context, names ...string) ([]systemd.Unit, error) {
	if f.looks++; f.looks > 100 {
		f.t.Fatal("the follower does not wait")
	}
	var units []systemd.Unit
	for _, name := range names {
		if f.read != nil {
			f.read(f.looks, name)
		}
		u, _ := f.Unit(ctx, name)
		units = append(units, systemd.Unit{Name: name, Active: u.Active, Sub: u.Sub, Job: u.Job})
	}
	return units, f.err
}

func (f *fake) Unit(_ context.Context, name string) (systemd.Unit, error) {
	u, ok := f.units[name]
	if !ok {
		u.Active = "inactive"
		if strings.HasSuffix(name, ".path") {
			u.Active = "active"
		}
	}
	u.Name = name
	return u, f.err
}

func (f *fake) Status(_ context.Context, name string) (string, error) {
	return f.units[name].Status, f.err
}

func (f *fake) Changes() <-chan struct{} { return f.ticks }

// bench is a follower of an attempt, with a tree of its own.
type bench struct {
	*follower
	t       *testing.T
	systemd *fake
	said    strings.Builder
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{t: t, systemd: &fake{t: t, units: map[string]systemd.Unit{}, ticks: make(chan struct{}, 1)}}
	b.follower = &follower{tree: state.Tree{Var: filepath.Join(dir, "var"), Run: filepath.Join(dir, "run")}, conn: b.systemd,
		name: "agent", attempt: attempt, first: unit("fetch", "agent"), progress: &progress{to: &b.said, name: "agent"}}
	for _, r := range []state.Role{state.RoleFetch, state.RoleVerify, state.RoleSwap} {
		if err := os.MkdirAll(b.tree.Ready(r, "agent"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (b *bench) look() ([]systemd.Unit, error) {
	return b.systemd.Units(b.t.Context(), unitsOf("agent")...)
}

func (b *bench) record(r state.Role, a state.Attempt) {
	b.t.Helper()
	if err := b.tree.SetStatus(r, "agent", state.Status{Attempts: []state.Attempt{a}}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) write(path, content string) {
	b.t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) offer(r state.Role, entry string) {
	b.t.Helper()
	ready := b.tree.Ready(r, "agent")
	if err := errors.Join(os.Mkdir(filepath.Join(ready, entry), 0o755), os.Symlink(entry, filepath.Join(ready, ".next.link"))); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) claim(r state.Role) {
	b.t.Helper()
	ready := b.tree.Ready(r, "agent")
	if err := os.Rename(filepath.Join(ready, attempt), filepath.Join(ready, "."+attempt)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) damage(r state.Role) {
	b.t.Helper()
	b.write(filepath.Join(b.tree.Dir(r, "agent"), "status.json"), "{")
}

func (b *bench) openTrial() {
	b.t.Helper()
	if err := b.tree.SetJournal(&state.Journal{Target: "agent", Attempt: attempt}); err != nil {
		b.t.Fatal(err)
	}
}

package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Options are the settings that all machines of a Lab share.
type Options struct {
	Release string   // Debian's name of the release; "bookworm" if empty
	Debs    []string // package files to install; may be empty
	From    []string // package files of an earlier release; if there are any, they are installed first and apt upgrades them to Debs
	Logf    func(format string, args ...any)
}

// Lab is the set of machines of one run: an image with the packages installed, and the
// directory that holds all files that the run writes.
type Lab struct {
	dir    string
	cgroup string
	lock   *os.File
	lower  []string // the overlay's lower directories, uppermost first
	count  atomic.Int64
}

// NewLab raises this host's limit on inotify, removes the remains of killed runs, makes the
// base image if it is missing, and installs the packages on it by apt on a booted machine.
func NewLab(ctx context.Context, o Options) (_ *Lab, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("cannot boot machines: only root can (overlayfs, namespaces, mmdebstrap); run it with sudo")
	}
	if o.Release == "" {
		o.Release = "bookworm"
	}
	if err := raise(inotifyInstances, 8192); err != nil {
		return nil, err
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	runs := filepath.Join(cache, "runs")
	if err := os.MkdirAll(runs, 0o755); err != nil {
		return nil, err
	}
	if err := sweep(runs); err != nil {
		return nil, fmt.Errorf("cannot clear an earlier run: %w", err)
	}

	start := time.Now()
	base, err := baseImage(ctx, cache, o.Release)
	if err != nil {
		return nil, err
	}
	o.Logf("base image: %s (%s)", filepath.Base(base), since(start))

	l := &Lab{lower: []string{base}}
	if err := l.claim(runs); err != nil {
		return nil, fmt.Errorf("cannot start a run in %s: %w", runs, err)
	}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	start = time.Now()
	if len(o.From) == 0 {
		if err := l.layer(ctx, "install", o.Debs, (*Machine).Install); err != nil {
			return nil, err
		}
		o.Logf("installed %d packages (%s)", len(o.Debs), since(start))
		return l, nil
	}
	if err := l.layer(ctx, "install", o.From, (*Machine).Install); err != nil {
		return nil, err
	}
	if err := l.layer(ctx, "upgrade", o.Debs, (*Machine).Upgrade); err != nil {
		return nil, err
	}
	o.Logf("installed %d packages and upgraded to %d (%s)", len(o.From), len(o.Debs), since(start))
	return l, nil
}

func since(start time.Time) time.Duration { return time.Since(start).Round(10 * time.Millisecond) }

// claim makes the directory and the cgroup of this run and locks them.
func (l *Lab) claim(runs string) error {
	// Sweepers take this lock too, so they never see a new run before it holds its lock.
	guard, err := lockFile(runs+".lock", unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer guard.Close()
	if l.dir, err = os.MkdirTemp(runs, ""); err != nil {
		return err
	}
	if err := os.Chmod(l.dir, 0o755); err != nil {
		return err
	}
	if l.lock, err = lockFile(filepath.Join(l.dir, "lock"), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	own, err := ownCgroup("self")
	if err != nil {
		return err
	}
	l.cgroup = filepath.Join(own, "machinemon-run-"+filepath.Base(l.dir))
	if err := os.WriteFile(filepath.Join(l.dir, "cgroup"), []byte(l.cgroup), 0o644); err != nil {
		return err
	}
	return os.Mkdir(l.cgroup, 0o755)
}

// sweep removes the runs whose process has ended.
func sweep(runs string) error {
	guard, err := lockFile(runs+".lock", unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer guard.Close()
	entries, err := os.ReadDir(runs)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(runs, e.Name())
		lock, err := lockFile(filepath.Join(dir, "lock"), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue // the run's process is alive
		}
		if err != nil {
			return err
		}
		err = removeRun(dir)
		lock.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func removeRun(dir string) error {
	cgroup, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err == nil {
		err = removeCgroup(string(cgroup))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

func lockFile(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// layer applies take to a machine, and makes the machine's changes a layer below all
// later machines. take installs or upgrades the packages.
func (l *Lab) layer(ctx context.Context, name string, debs []string, take func(*Machine, context.Context, ...string) error) error {
	if len(debs) == 0 {
		return nil
	}
	m, err := l.New(ctx, name)
	if err != nil {
		return err
	}
	if err = take(m, ctx, debs...); err == nil {
		err = m.PowerOff(ctx)
	}
	if err != nil {
		m.Close()
		return fmt.Errorf("cannot %s the packages: %w", name, err)
	}
	l.lower = append([]string{upper(m.dir)}, l.lower...)
	return m.detach()
}

// New boots a fresh machine. A number is added to its name, so names may repeat.
func (l *Lab) New(ctx context.Context, name string) (*Machine, error) {
	return l.newOn(ctx, name, l.lower)
}

// NewReleased boots a fresh machine that still has the packages of Options.From.
func (l *Lab) NewReleased(ctx context.Context, name string) (*Machine, error) {
	return l.newOn(ctx, name, l.lower[1:])
}

// NewBare boots a fresh machine on which our packages were never installed.
func (l *Lab) NewBare(ctx context.Context, name string) (*Machine, error) {
	return l.newOn(ctx, name, l.lower[len(l.lower)-1:])
}

func (l *Lab) newOn(ctx context.Context, name string, lower []string) (*Machine, error) {
	return l.boot(ctx, name, func(dir string) func(string) error { return overlay(dir, lower) })
}

// boot boots a machine whose file system the function that mounting returns mounts.
func (l *Lab) boot(ctx context.Context, name string, mounting func(dir string) func(root string) error) (*Machine, error) {
	m, err := l.off(name, mounting)
	if err != nil {
		return nil, err
	}
	if err := m.Boot(ctx); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// off is boot without the boot.
func (l *Lab) off(name string, mounting func(dir string) func(root string) error) (*Machine, error) {
	name = fmt.Sprintf("%s-%d", hostname(name), l.count.Add(1))
	dir := filepath.Join(l.dir, name)
	return newMachine(name, dir, filepath.Join(l.cgroup, name), mounting(dir))
}

// hostname returns s as a name that nspawn accepts: machine names must be host names.
func hostname(s string) string {
	s = strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return '-'
	}, s), "-")
	return s[:min(len(s), 40)]
}

// Installed returns the path on this host of a file that the packages installed. A
// static program can be run from there outside of any machine.
func (l *Lab) Installed(name string) string { return filepath.Join(l.lower[0], name) }

// Directory returns the directory of this host that holds all files that the run writes.
func (l *Lab) Directory() string { return l.dir }

// Close removes all files of the run. The machines must be closed before.
func (l *Lab) Close() error {
	defer l.lock.Close()
	return removeRun(l.dir)
}

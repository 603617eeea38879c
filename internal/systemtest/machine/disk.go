package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Store holds the images of disks, and copies them in an instant: it is a file system
// whose files can share their blocks. A copy of the disk of a machine that runs has what
// had reached the disk at that moment, as after a power cut. What the machine's file
// system had not written yet is lost.
type Store struct {
	lab    *Lab
	keeper *keeper
	dir    string
	count  atomic.Int64
}

// NewStore makes a store of at most size bytes.
func (l *Lab) NewStore(size int64) (*Store, error) {
	s := &Store{lab: l, dir: filepath.Join(l.dir, "store")}
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return nil, err
	}
	k, err := newKeeper()
	if err != nil {
		return nil, err
	}
	s.keeper = k
	if err := s.keeper.do(func() error {
		image := s.dir + ".img"
		if err := makeImage(image, "xfs", size, "-m", "reflink=1"); err != nil {
			return err
		}
		return mountLoop(image, "xfs", s.dir)
	}); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make a store of disks: %w", err), s.Close())
	}
	return s, nil
}

// Close removes the store, and all disks in it, once no machine uses them.
func (s *Store) Close() error {
	s.keeper.close()
	return errors.Join(os.Remove(s.dir), os.Remove(s.dir+".img"))
}

// Disk is a disk with one file system.
type Disk struct {
	store  *Store
	image  string
	fstype string
	device string // the file that machines use, if not image
}

// NewDisk makes a disk of this type and size that holds a system with the packages.
func (s *Store) NewDisk(ctx context.Context, fstype string, size int64) (*Disk, error) {
	d := s.disk(fstype)
	temp, err := os.MkdirTemp(s.lab.dir, "fill-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	at := filepath.Join(temp, "root")
	if err := os.Mkdir(at, 0o755); err != nil {
		return nil, err
	}
	err = s.keeper.do(func() error {
		if err := makeImage(d.image, fstype, size); err != nil {
			return err
		}
		if err := mountLoop(d.image, fstype, at); err != nil {
			return err
		}
		from := filepath.Join(temp, "from")
		if err := os.Mkdir(from, 0o755); err != nil {
			return err
		}
		if err := overlay(temp, s.lab.lower)(from); err != nil {
			return err
		}
		err := run(ctx, "cp", "--archive", "--one-file-system", from+"/.", at)
		return errors.Join(err, unix.Unmount(from, 0), unix.Unmount(at, 0))
	})
	if err != nil {
		return nil, fmt.Errorf("cannot fill a disk: %w", err)
	}
	return d, nil
}

func (s *Store) disk(fstype string) *Disk {
	return &Disk{store: s, image: filepath.Join(s.dir, fmt.Sprint("disk", s.count.Add(1))), fstype: fstype}
}

// Copy returns a disk with what has reached this one.
func (d *Disk) Copy(ctx context.Context) (*Disk, error) {
	c := d.store.disk(d.fstype)
	err := d.store.keeper.do(func() error { return run(ctx, "cp", "--reflink=always", d.image, c.image) })
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Remove removes a disk that no machine uses.
func (d *Disk) Remove() error {
	return d.store.keeper.do(func() error { return os.Remove(d.image) })
}

// Sync writes what the file system of a machine on the disk has not written yet.
func (m *Machine) Sync() error {
	f, err := m.disk.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// NewOn makes a machine on the disk, which is off. Its mount recovers what a power cut has
// left.
func (l *Lab) NewOn(name string, d *Disk) (*Machine, error) {
	device, err := "", error(nil)
	if err := d.store.keeper.do(func() error {
		device, err = attach(cmp.Or(d.device, d.image))
		return err
	}); err != nil {
		return nil, err
	}
	options := ""
	if d.fstype == "xfs" {
		options = "nouuid" // copies of a disk are mounted at the same time
	}
	m, err := l.off(name, func(string) func(string) error {
		return func(root string) error { return unix.Mount(device, root, d.fstype, 0, options) }
	})
	return m, errors.Join(err, detach(device))
}

// makeImage makes a file system of this size.
func makeImage(image, fstype string, size int64, options ...string) error {
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	return run(context.Background(), append(append([]string{"mkfs." + fstype, "-q"}, options...), image)...)
}

// mountLoop mounts an image. Its block device ends with the mount.
func mountLoop(image, fstype, at string) error {
	device, err := attach(image)
	if err != nil {
		return err
	}
	return errors.Join(unix.Mount(device, at, fstype, 0, ""), detach(device))
}

// attach makes a block device of an image.
func attach(image string) (device string, err error) {
	out, err := exec.Command("losetup", "--find", "--show", image).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("losetup: %w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// detach ends a block device as soon as it is unused.
func detach(device string) error {
	return run(context.Background(), "losetup", "--detach", device)
}

func run(ctx context.Context, argv ...string) error {
	if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", argv[0], err, out)
	}
	return nil
}

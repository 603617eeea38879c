package machine

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MountImage makes a file system of this type and size with this host's mkfs, and mounts
// it at a directory of the machine, which has no block devices itself. The mount ends
// when the machine is off.
func (m *Machine) MountImage(fstype string, size int64, at string) error {
	image := filepath.Join(m.dir, fstype+".img")
	err := makeImage(image, fstype, size)
	device := ""
	if err == nil {
		device, err = attach(image)
	}
	if err == nil {
		err = m.mountDevice(fstype, device, at)
	}
	if err != nil {
		return fmt.Errorf("cannot mount %s at %s of %s: %w", image, at, m.Name, err)
	}
	return nil
}

// mountDevice makes a mount of a device of this host and attaches it in the machine. The
// device is released when the mount ends.
func (m *Machine) mountDevice(fstype, device, at string) (err error) {
	defer func() { err = errors.Join(err, detach(device)) }()
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", device); err != nil {
		return err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mount)
	return m.inside(unix.CLONE_NEWNS, func() error {
		return unix.MoveMount(mount, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
	})
}

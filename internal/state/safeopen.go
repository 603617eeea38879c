package state

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// OpenRegular opens an installed file. Nothing that is there in its place makes it
// hang or leads elsewhere.
func OpenRegular(path string) (*os.File, error) {
	f, err := regular(os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, cause(err))
	}
	return f, nil
}

func openRegular(root *os.Root, name string) (*os.File, error) {
	return regular(root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0))
}

func regular(f *os.File, err error) (*os.File, error) {
	if errors.Is(err, unix.ELOOP) {
		return nil, errors.New("it is a symbolic link")
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openDir opens a directory that another role may have replaced.
// [os.Root.OpenRoot] opens whatever is there, and hangs on a FIFO; this refuses
// everything but a directory, and follows no link.
func openDir(root *os.Root, name string) (*os.Root, error) {
	d, err := root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return os.OpenRoot("/proc/self/fd/" + strconv.Itoa(int(d.Fd())))
}

package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Watch calls flushed each time the file system on the disk has told it to make durable
// what was written, before the file system learns that it is. Between two calls nothing
// more became durable that the machine can rely on. It has an effect on machines that are
// made later with NewOn, and ends with stop, when no machine uses the disk.
func (d *Disk) Watch(flushed func()) (stop func() error, err error) {
	at := d.image + ".watched"
	var image *os.File
	var server *fuse.Server
	// Only the keeper sees the store.
	err = d.store.keeper.do(func() (err error) {
		if image, err = os.OpenFile(d.image, os.O_RDWR, 0); err != nil {
			return err
		}
		if err := os.Mkdir(at, 0o755); err != nil {
			return errors.Join(err, image.Close())
		}
		server, err = fs.Mount(at, &watchedDir{image: image, flushed: flushed},
			&fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, Name: "watched", MaxWrite: 1 << 20}})
		if err != nil {
			return errors.Join(err, os.Remove(at), image.Close())
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot watch a disk: %w", err)
	}
	d.device = filepath.Join(at, watchedName)
	return func() error {
		d.device = ""
		// The kernel lets a machine's disk go some time after the machine has ended.
		err := d.store.keeper.do(func() error { return unix.Unmount(at, unix.MNT_DETACH) })
		if err == nil {
			server.Wait()
		}
		return errors.Join(err, image.Close(), d.store.keeper.do(func() error { return os.Remove(at) }))
	}, nil
}

const watchedName = "image"

// watchedDir is a file system in user space that has only the image of a disk.
type watchedDir struct {
	fs.Inode
	image   *os.File
	flushed func()
}

func (d *watchedDir) OnAdd(ctx context.Context) {
	d.AddChild(watchedName, d.NewPersistentInode(ctx, &watchedImage{image: d.image, flushed: d.flushed}, fs.StableAttr{}), false)
}

type watchedImage struct {
	fs.Inode
	mu      sync.Mutex // held while flushed runs
	image   *os.File
	flushed func()
}

func (w *watchedImage) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(w.image.Fd()), &st); err != nil {
		return fs.ToErrno(err)
	}
	out.FromStat(&st)
	return 0
}

func (w *watchedImage) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (w *watchedImage) Read(_ context.Context, _ fs.FileHandle, into []byte, at int64) (fuse.ReadResult, syscall.Errno) {
	return fuse.ReadResultFd(w.image.Fd(), at, len(into)), 0
}

func (w *watchedImage) Write(_ context.Context, _ fs.FileHandle, data []byte, at int64) (uint32, syscall.Errno) {
	n, err := w.image.WriteAt(data, at)
	return uint32(n), fs.ToErrno(err)
}

func (w *watchedImage) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flushed()
	return 0
}

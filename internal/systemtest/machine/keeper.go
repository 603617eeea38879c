package machine

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// A keeper is a thread with a mount namespace of its own. Only its children see what it
// mounts; the mounts end with this process at the latest. A child with Pdeathsig set is
// signalled when the keeper ends.
type keeper struct {
	calls chan func()
	ended chan struct{}
}

func newKeeper() (*keeper, error) {
	k := &keeper{calls: make(chan func()), ended: make(chan struct{})}
	unshared := make(chan error)
	go func() {
		defer close(k.ended)
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		unshared <- err
		for call := range k.calls {
			call()
		}
	}()
	if err := <-unshared; err != nil {
		k.close()
		return nil, err
	}
	return k, nil
}

// do runs f on the keeper's thread.
func (k *keeper) do(f func() error) error {
	result := make(chan error)
	k.calls <- func() { result <- f() }
	return <-result
}

func (k *keeper) close() {
	close(k.calls)
	<-k.ended
}

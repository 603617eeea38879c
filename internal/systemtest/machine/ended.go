package machine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Ended is a process that has ended, as the kernel measured it. Times are those of
// CLOCK_MONOTONIC, which host and machines share.
type Ended struct {
	PID        int    // on this host
	Program    string // the first 15 bytes of its file's name
	Begun, End time.Duration
	CPU        time.Duration
	Peak       int64 // bytes of the greatest resident set, with the program's own pages: VmHWM of proc_pid_status(5)
	Written    int64 // bytes that it made the kernel write to disks, less those that it deleted before
}

// Ends collects the processes of this host, and so of all machines, that end. The kernel
// sends a record of each thread (taskstats of the kernel's documentation), for which a
// process that is measured does nothing.
type Ends struct {
	conn   *netlink.Conn
	family uint16
	asked  chan error // an answer to sync has come, or none will

	mu  sync.Mutex
	all map[uint32]*Ended // by process ID
}

// WatchEnds collects the processes that end from now on, until Close. It needs root in the
// first process namespace.
func WatchEnds() (_ *Ends, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot watch for processes that end (taskstats): %w", err)
		}
	}()
	conn, err := netlink.Dial(unix.NETLINK_GENERIC, nil)
	if err != nil {
		return nil, err
	}
	e := &Ends{conn: conn, asked: make(chan error), all: map[uint32]*Ended{}}
	if e.family, err = familyOf(conn, unix.TASKSTATS_GENL_NAME); err == nil {
		err = conn.SetReadBuffer(4 << 20)
	}
	if err == nil {
		cpus := fmt.Sprintf("0-%d", runtime.NumCPU()-1)
		_, err = conn.Execute(e.request(netlink.Request|netlink.Acknowledge, func(a *netlink.AttributeEncoder) {
			a.String(unix.TASKSTATS_CMD_ATTR_REGISTER_CPUMASK, cpus)
		}))
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	go e.receive()
	return e, nil
}

// Close ends the collection.
func (e *Ends) Close() error { return e.conn.Close() }

// Take returns the processes that have ended until now, and forgets them.
func (e *Ends) Take() ([]Ended, error) {
	// The kernel answers after all that it has sent before.
	_, err := e.conn.Send(e.request(netlink.Request, func(a *netlink.AttributeEncoder) {
		a.Uint32(unix.TASKSTATS_CMD_ATTR_PID, uint32(os.Getpid()))
	}))
	if err == nil {
		err = <-e.asked
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read which processes have ended (taskstats): %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []Ended
	for pid, p := range e.all {
		if p.Program != "" { // else only some of its threads have ended
			all = append(all, *p)
			delete(e.all, pid)
		}
	}
	return all, nil
}

// request returns a message with the only attribute that add adds.
func (e *Ends) request(flags netlink.HeaderFlags, add func(*netlink.AttributeEncoder)) netlink.Message {
	return generic(e.family, unix.TASKSTATS_CMD_GET, unix.TASKSTATS_GENL_VERSION, flags, add)
}

// receive adds the kernel's records until the connection is closed.
func (e *Ends) receive() {
	defer close(e.asked)
	for {
		messages, err := e.conn.Receive()
		if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADF) {
			return
		}
		now := monotonic()
		for _, m := range messages {
			if uint16(m.Header.Type) != e.family {
				continue
			}
			if m.Header.PID != 0 { // an answer; the records have no receiver
				e.asked <- nil
				continue
			}
			if err == nil {
				err = e.add(m, now)
			}
		}
		if err != nil { // such as ENOBUFS: records were lost
			e.asked <- err
		}
	}
}

// add adds the record of a thread, which ended now.
func (e *Ends) add(m netlink.Message, now time.Duration) error {
	s, err := statsOf(m)
	if err != nil || s == nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.all[s.Ac_tgid]
	if p == nil {
		p = &Ended{PID: int(s.Ac_tgid)}
		e.all[s.Ac_tgid] = p
	}
	if s.Ac_pid == s.Ac_tgid { // the thread that the process began with
		p.Begun = now - time.Duration(s.Ac_etime)*time.Microsecond
		p.Program = unix.ByteSliceToString(unsafe.Slice((*byte)(unsafe.Pointer(&s.Ac_comm[0])), len(s.Ac_comm)))
	}
	p.End = now
	p.CPU += time.Duration(s.Ac_utime+s.Ac_stime) * time.Microsecond
	p.Peak = max(p.Peak, int64(s.Hiwater_rss)<<10)
	p.Written += int64(s.Write_bytes) - int64(s.Cancelled_write_bytes)
	return nil
}

// statsOf returns the record of a thread, or nil if a message has none: it is one of all
// threads of a process together, which lacks what is measured here.
func statsOf(m netlink.Message) (s *unix.Taskstats, err error) {
	a, err := netlink.NewAttributeDecoder(m.Data[min(len(m.Data), genericHeader):])
	if err != nil {
		return nil, err
	}
	for a.Next() {
		if a.Type() != unix.TASKSTATS_TYPE_AGGR_PID {
			continue
		}
		a.Nested(func(a *netlink.AttributeDecoder) error {
			for a.Next() {
				if a.Type() != unix.TASKSTATS_TYPE_STATS {
					continue
				}
				b := a.Bytes()
				s = new(unix.Taskstats)
				if len(b) < int(unsafe.Offsetof(s.Ac_exe_dev)) {
					return errors.New("the kernel is too old (Linux 5.19 and later tell to which process a thread belonged)")
				}
				copy(unsafe.Slice((*byte)(unsafe.Pointer(s)), unsafe.Sizeof(*s)), b) // a newer kernel's is longer, an older one's shorter
			}
			return nil
		})
	}
	return s, a.Err()
}

// genericHeader is the size in bytes of struct genlmsghdr, which begins a message of
// generic netlink.
const genericHeader = 4

func generic(family uint16, command, version uint8, flags netlink.HeaderFlags, add func(*netlink.AttributeEncoder)) netlink.Message {
	a := netlink.NewAttributeEncoder()
	add(a)
	b, err := a.Encode()
	if err != nil {
		panic(err) // an attribute of more than 64 KiB
	}
	return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(family), Flags: flags}, Data: append([]byte{command, version, 0, 0}, b...)}
}

// familyOf returns the number of a family of generic netlink.
func familyOf(c *netlink.Conn, name string) (uint16, error) {
	answers, err := c.Execute(generic(unix.GENL_ID_CTRL, unix.CTRL_CMD_GETFAMILY, 1, netlink.Request, func(a *netlink.AttributeEncoder) {
		a.String(unix.CTRL_ATTR_FAMILY_NAME, name)
	}))
	if err != nil {
		return 0, err
	}
	for _, m := range answers {
		a, err := netlink.NewAttributeDecoder(m.Data[min(len(m.Data), genericHeader):])
		if err != nil {
			return 0, err
		}
		for a.Next() {
			if a.Type() == unix.CTRL_ATTR_FAMILY_ID {
				return binary.NativeEndian.Uint16(a.Bytes()), nil
			}
		}
	}
	return 0, errors.New("the kernel does not tell its number")
}

func monotonic() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	return time.Duration(now.Nano())
}

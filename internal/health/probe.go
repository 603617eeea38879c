package health

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/machinemon/machinemon-update/internal/target"
)

const (
	answerLimit  = 2 * time.Second  // of a connection or a request
	commandLimit = 10 * time.Second // of a command, which may be a script
	maxLine      = 700              // bytes of a reason
)

// prober tries one probe.
type prober struct {
	name    string // as the target file has it
	key     string // identifies its whole text; "" for version_command, which proves no service
	answer  string // what is proven if it passes
	limit   time.Duration
	excused bool // it failed before the swap and never passed on this machine
	once    bool // it need not be tried again after it has passed
	owned   bool // only a socket of the unit may answer it
	running bool // it needs a unit that runs
	resting bool // it is not tried, because no unit runs and the probe would not start one
	// try returns nil if the probe passes; otherwise the cause, in a few words and
	// without the probe's name.
	try func(ctx context.Context, who peers) error
}

// noAnswer is the error of a try that gives no evidence for or against the program.
type noAnswer struct{ error }

// notAsked is the error of a try that failed on our side: the program was not asked.
type notAsked struct{ error }

// lacking is the error of a try for which this machine lacked something, such as memory or a
// resolver. It is no evidence against a new program. A baseline counts it as a failure, so
// that a probe which can never be tried here is excused.
type lacking struct{ error }

// shortage reports whether this machine lacked what a connection or a new process needs.
func shortage(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS} {
		if errors.Is(err, errno) {
			return true
		}
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && errors.Is(err, syscall.EADDRNOTAVAIL) {
		at, isTCP := op.Addr.(*net.TCPAddr)
		return isTCP && at.IP.To4() != nil && at.IP.IsLoopback() // no port is free: the address is there
	}
	lookup, ok := errors.AsType[*net.DNSError](err)
	return ok && !lookup.IsNotFound
}

// mistaken is the error of a try that shows a mistake in the target file or in a file that
// it names. It is no evidence against the program, and goes away only when that is mended.
type mistaken struct{ error }

// judged returns the error in err that says more than that the try failed.
func judged(err error) (error, bool) {
	if e, ok := errors.AsType[noAnswer](err); ok {
		return e, true
	}
	if e, ok := errors.AsType[notAsked](err); ok {
		return e, true
	}
	if e, ok := errors.AsType[mistaken](err); ok {
		return e, true
	}
	if e, ok := errors.AsType[lacking](err); ok {
		return e, true
	}
	return errors.AsType[unowned](err)
}

// limitOf returns how long a try of the probe may take.
func limitOf(p target.Probe) time.Duration {
	if len(p.Command) > 0 || p.Journal != "" {
		return cmp.Or(p.Timeout, commandLimit)
	}
	return cmp.Or(p.Timeout, answerLimit)
}

func probers(h target.Health, run runner) []prober {
	var all []prober
	for _, p := range h.Probes {
		n := prober{name: p.String(), key: p.Key(), limit: limitOf(p), answer: "a connection is accepted", running: len(p.Command) == 0}
		switch {
		case p.HTTP != "":
			n.answer = proofOf(p)
			n.owned = !p.Foreign
			n.try = func(ctx context.Context, who peers) error { return get(ctx, p, who) }
		case p.GRPC != "":
			n.answer = "its health service says SERVING"
			n.owned = !p.Foreign
			n.try = func(ctx context.Context, who peers) error { return checkGRPC(ctx, p, who) }
		case p.TCP != "":
			n.owned = !p.Foreign
			n.try = func(ctx context.Context, who peers) error { return connect(ctx, "tcp", p.TCP, who.dialer(p.Foreign)) }
		case p.Unix != "":
			n.owned = !p.Foreign
			n.try = func(ctx context.Context, who peers) error { return connect(ctx, "unix", p.Unix, who.dialer(p.Foreign)) }
		case p.Journal != "":
			n.answer = "a line of this run contains it"
			n.try = func(ctx context.Context, who peers) error { return who.said(ctx, p.Journal) }
		default:
			n.answer = "exited with status 0"
			n.try = func(ctx context.Context, _ peers) error {
				_, err := run(ctx, n.key)
				return err
			}
		}
		all = append(all, n)
	}
	return all
}

func connect(ctx context.Context, network, address string, dial dialing) error {
	conn, err := dial(ctx, network, address)
	if err != nil {
		return plain(err)
	}
	return conn.Close()
}

// plain removes from an error what the probe's name says already, and the URL, whose
// query may be secret.
func plain(err error) error {
	if e, ok := judged(err); ok {
		return e
	}
	short := shortage(err)
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		err = errno
	} else {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		err = errors.New(oneLine(err.Error()))
	}
	if short {
		return lacking{err}
	}
	return err
}

// oneLine makes untrusted text safe for a report, a log and a terminal.
func oneLine(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "…"
	}
	return s
}

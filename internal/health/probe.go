package health

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
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
	maxBody      = 1 << 20          // bytes of an answer that are read
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
	// try returns nil if the probe passes; otherwise the cause, in a few words and
	// without the probe's name.
	try func(ctx context.Context, who peers) error
}

// noAnswer is the error of a try that gives no evidence for or against the program.
type noAnswer struct{ error }

// notAsked is the error of a try that failed on our side: the program was not asked.
type notAsked struct{ error }

// judged returns the error in err that says more than that the try failed.
func judged(err error) (error, bool) {
	if e, ok := errors.AsType[noAnswer](err); ok {
		return e, true
	}
	if e, ok := errors.AsType[notAsked](err); ok {
		return e, true
	}
	return errors.AsType[unowned](err)
}

func probers(h target.Health, run runner) []prober {
	var all []prober
	for _, p := range h.Probes {
		n := prober{name: p.String(), key: p.Key(), limit: answerLimit, answer: "a connection is accepted"}
		switch {
		case p.HTTP != "":
			n.answer = fmt.Sprintf("status %d", p.ExpectStatus)
			if p.ExpectBody != "" {
				n.answer += ", with the expected text"
			}
			n.owned = !p.Foreign
			n.try = func(ctx context.Context, who peers) error { return get(ctx, p, who) }
		case p.TCP != "":
			n.owned = !p.Foreign
			n.try = func(ctx context.Context, who peers) error { return connect(ctx, "tcp", p.TCP, who.dialer(p.Foreign)) }
		case p.Unix != "":
			n.owned = !p.Foreign
			n.try = func(ctx context.Context, who peers) error { return connect(ctx, "unix", p.Unix, who.dialer(p.Foreign)) }
		case p.Journal != "":
			n.limit, n.answer = commandLimit, "a line of this run contains it"
			n.try = func(ctx context.Context, who peers) error { return logged(ctx, who.unit, p.Journal) }
		default:
			n.limit, n.answer = commandLimit, "exited with status 0"
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

// web makes a new connection for each request, uses no proxy, and follows no redirect.
func web(dial dialing) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            dial,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func get(ctx context.Context, p target.Probe, who peers) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.HTTP, nil)
	if err != nil {
		return plain(err)
	}
	req.Header.Set("User-Agent", "machinemon-update health-gate")
	// The request may hold a secret, so the program is checked before it is sent.
	resp, err := web(who.dialer(p.Foreign)).Do(req)
	if err != nil {
		return plain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != p.ExpectStatus {
		return fmt.Errorf("status %d instead of %d", resp.StatusCode, p.ExpectStatus)
	}
	if p.ExpectBody == "" {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if bytes.Contains(body, []byte(p.ExpectBody)) {
		return nil
	}
	if err != nil {
		return plain(err)
	}
	return errors.New("its answer does not contain the expected text")
}

// plain removes from an error what the probe's name says already, and the URL, whose
// query may be secret.
func plain(err error) error {
	if e, ok := judged(err); ok {
		return e
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	return errors.New(oneLine(err.Error()))
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

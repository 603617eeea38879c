package health

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

const (
	answerLimit  = 2 * time.Second  // of a connection or a request
	commandLimit = 10 * time.Second // of a command, which may be a script
	maxBody      = 1 << 20          // bytes of an answer that are looked at
	maxLine      = 700              // bytes of a reason
)

// prober can try one probe.
type prober struct {
	name    string // in the target file's words
	key     string // of its whole text; "" of version_command, which proves no service
	answer  string // what it means that it passes
	limit   time.Duration
	excused bool // it failed before the swap, and never passed here
	once    bool // having passed, it would pass again
	// try returns nil when the probe passes, and else why not: in a few words,
	// without the probe's name.
	try func(ctx context.Context) error
	// ask is try for a probe that needs to know the unit's present run.
	ask func(ctx context.Context, u systemd.Unit) error
}

// noAnswer is the error of a try that says nothing of the program, neither good nor
// bad.
type noAnswer struct{ error }

// of binds a probe to the unit as it was last seen.
func (p prober) of(u systemd.Unit) prober {
	if p.ask != nil {
		p.try = func(ctx context.Context) error { return p.ask(ctx, u) }
	}
	return p
}

func probers(h target.Health) []prober {
	var all []prober
	for _, p := range h.Probes {
		n := prober{name: p.String(), key: p.Key(), limit: answerLimit, answer: "a connection is accepted"}
		switch {
		case p.HTTP != "":
			n.answer = fmt.Sprintf("status %d", p.ExpectStatus)
			if p.ExpectBody != "" {
				n.answer += ", with the expected text"
			}
			n.try = func(ctx context.Context) error { return get(ctx, p) }
		case p.TCP != "":
			n.try = func(ctx context.Context) error { return connect(ctx, "tcp", p.TCP) }
		case p.Unix != "":
			n.try = func(ctx context.Context) error { return connect(ctx, "unix", p.Unix) }
		case p.Journal != "":
			n.limit, n.answer = commandLimit, "a line of this run contains it"
			n.ask = func(ctx context.Context, u systemd.Unit) error { return logged(ctx, u, p.Journal) }
		default:
			n.limit, n.answer = commandLimit, "exited with status 0"
			n.try = func(ctx context.Context) error {
				_, err := command(ctx, p.Command)
				return err
			}
		}
		all = append(all, n)
	}
	return all
}

func connect(ctx context.Context, network, address string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return plain(err)
	}
	return conn.Close()
}

// web asks the program itself: over a new connection each time, through no
// proxy, and a redirect is an answer like any other.
var web = http.Client{
	Transport: &http.Transport{
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func get(ctx context.Context, p target.Probe) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.HTTP, nil)
	if err != nil {
		return plain(err)
	}
	req.Header.Set("User-Agent", "machinemon-update health-gate")
	resp, err := web.Do(req)
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

// plain takes off an error what the probe's name tells already, and the URL,
// whose query may hold a secret.
func plain(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	return errors.New(oneLine(err.Error()))
}

// oneLine makes text of unknown origin fit for a report, a log and a terminal.
func oneLine(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "…"
	}
	return s
}

package checkin

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"strings"

	"github.com/machinemon/machinemon-update/internal/state"
)

// PeekBody returns the first MaxResponse+1 bytes of an answer's body, or less, and the
// read's error. Later reads of resp.Body still return all of it, and that error.
func PeekBody(resp *http.Response) ([]byte, error) {
	head, err := io.ReadAll(io.LimitReader(resp.Body, MaxResponse+1))
	rest := resp.Body
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), errorAtEnd{err}, rest), rest}
	return head, err
}

// errorAtEnd is a reader without content that returns err, or io.EOF if err is nil.
type errorAtEnd struct{ err error }

func (f errorAtEnd) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.EOF
	}
	return 0, f.err
}

// PanicLog returns a log for net/http's servers. It passes on lines about panics, which
// are bugs, and drops the others, which any client could cause.
func PanicLog(say func(string)) *log.Logger { return log.New(panicWriter(say), "", 0) }

type panicWriter func(string)

func (b panicWriter) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "panic") {
		b(state.Line(string(p)))
	}
	return len(p), nil
}

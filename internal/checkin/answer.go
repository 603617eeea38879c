package checkin

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"strings"

	"github.com/machinemon/machinemon-update/internal/state"
)

// Head reads an answer's body up to one byte more than MaxResponse, and puts it back:
// whoever reads the body gets all of it, and the error, if it could not be read on.
func Head(resp *http.Response) ([]byte, error) {
	head, err := io.ReadAll(io.LimitReader(resp.Body, MaxResponse+1))
	rest := resp.Body
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), failing{err}, rest), rest}
	return head, err
}

// failing is the end of a body that could not be read on.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.EOF
	}
	return 0, f.err
}

// Bugs is a log for net/http's servers that passes on what it says of bugs, one line
// each, and nothing of what strangers do.
func Bugs(say func(string)) *log.Logger { return log.New(bugs(say), "", 0) }

type bugs func(string)

func (b bugs) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "panic") {
		b(state.Line(string(p)))
	}
	return len(p), nil
}

package releases

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Server serves releases: a directory, as a static server does with strong ETags, ranges
// and conditional requests, or the answers of another handler.
type Server struct {
	http http.Server
	good http.Handler
	dir  *os.Root // nil if another handler answers

	mu       sync.Mutex
	faults   map[string]Fault
	requests []Request
}

// Request is an answered request. Status is 0 if nothing was sent.
type Request struct {
	Path   string
	Status int
	Bytes  int64
}

// Fault answers a request instead of the server; good is the server's own answer.
type Fault func(w http.ResponseWriter, r *http.Request, good http.Handler)

// Serve serves dir on l until Close.
func Serve(l net.Listener, dir string) (*Server, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	s := ServeBy(l, directory{root})
	s.dir = root
	return s, nil
}

// ServeBy serves the answers of a handler, such as a [GitHub], on l until Close.
func ServeBy(l net.Listener, good http.Handler) *Server {
	s := &Server{good: good, faults: make(map[string]Fault)}
	s.http.Handler = http.HandlerFunc(s.serve)
	go s.http.Serve(l) // its error only says that Close was called
	return s
}

// Close cuts every connection.
func (s *Server) Close() error {
	if s.dir != nil {
		s.dir.Close()
	}
	return s.http.Close()
}

// Break makes a fault answer the requests for a path, such as "/manifest.json", until
// Mend.
func (s *Server) Break(path string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[path] = f
}

// Mend ends the path's fault.
func (s *Server) Mend(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.faults, path)
}

// Requests returns the answered requests, in the order in which the answers ended.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	fault := s.faults[r.URL.Path]
	s.mu.Unlock()
	counted := &counter{ResponseWriter: w}
	defer func() { // runs also if a fault panics to cut the connection
		s.mu.Lock()
		defer s.mu.Unlock()
		s.requests = append(s.requests, Request{r.URL.Path, counted.status, counted.bytes})
	}()
	if fault != nil {
		fault(counted, r, s.good)
		return
	}
	s.good.ServeHTTP(counted, r)
}

// directory is the file system of a static server.
type directory struct{ *os.Root }

func (d directory) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	content, err := d.ReadFile(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(content)))
	http.ServeContent(w, r, r.URL.Path, time.Time{}, bytes.NewReader(content))
}

// Status answers with a bare status, such as 404.
func Status(code int) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Error(w, http.StatusText(code), code)
	}
}

// Content answers with these bytes instead of the file's.
func Content(b []byte) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) { w.Write(b) }
}

// Cut passes on n bytes of the good answer's body, then cuts the connection.
func Cut(n int64) Fault {
	return func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		good.ServeHTTP(&paced{ResponseWriter: w, each: func(sent int64) {
			if sent >= n {
				http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
		}}, r)
	}
}

// Die works as Cut for one request; from then on it cuts every connection before a byte is sent.
func Die(n int64) Fault {
	var dead atomic.Bool
	return func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		if dead.Swap(true) {
			panic(http.ErrAbortHandler)
		}
		Cut(n)(w, r, good)
	}
}

// Slow pauses after every KiB of the good answer's body.
func Slow(pause time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		good.ServeHTTP(&paced{ResponseWriter: w, each: func(int64) {
			http.NewResponseController(w).Flush()
			select {
			case <-time.After(pause):
			case <-r.Context().Done():
			}
		}}, r)
	}
}

// Hang sends nothing until the client gives up. If came is not nil, it is closed when the
// request has arrived, which is the moment to cut the power.
func Hang(came chan<- struct{}) Fault {
	var once sync.Once
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		once.Do(func() {
			if came != nil {
				close(came)
			}
		})
		<-r.Context().Done()
	}
}

// paced passes a body on in pieces of at most 1 KiB and calls each after every piece.
type paced struct {
	http.ResponseWriter
	sent int64
	each func(sent int64)
}

func (p *paced) Write(b []byte) (written int, err error) {
	for piece := range slices.Chunk(b, 1024) {
		n, err := p.ResponseWriter.Write(piece)
		written += n
		p.sent += int64(n)
		if err != nil {
			return written, err
		}
		p.each(p.sent)
	}
	return written, nil
}

// counter records the status and size of a handler's answer.
type counter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (c *counter) WriteHeader(code int) {
	c.status = code
	c.ResponseWriter.WriteHeader(code)
}

func (c *counter) Write(b []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	n, err := c.ResponseWriter.Write(b)
	c.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the wrapped writer.
func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

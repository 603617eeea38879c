package health

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// hand hands a file over to this process, as systemd does.
func hand(t *testing.T, file, content string) {
	t.Helper()
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		dir = t.TempDir()
		t.Setenv("CREDENTIALS_DIRECTORY", dir)
	}
	testkit.Must(t, os.WriteFile(filepath.Join(dir, target.Credential(file)), []byte(content), 0o600))
}

// grpcServer is a health service whose answer is in the path that the test asks for.
func grpcServer(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/grpc")
	frame := func(message ...byte) { w.Write(append([]byte{0, 0, 0, 0, byte(len(message))}, message...)) }
	status := "0"
	w.Header().Set("Trailer", "Grpc-Status")
	switch service := string(body[min(7, len(body)):]); {
	case r.ProtoMajor != 2 || r.Method != "POST" || r.URL.Path != "/grpc.health.v1.Health/Check" || r.Header.Get("Te") != "trailers" || r.Header.Get("Content-Type") != "application/grpc":
		status = "3"
	case service == "" && string(body) == "\x00\x00\x00\x00\x00", service == "my.Service":
		frame(8, 1)
	case service == "down":
		frame(8, 2)
	case service == "unset":
		frame()
	case service == "later":
		frame(8, 200, 1)
	case service == "torn":
		w.Write([]byte{0, 0, 0, 0, 9, 8})
	case service == "other":
		frame(16, 1)
	case service == "secret" && r.Header.Get("Authorization") == "Bearer hunter2":
		frame(8, 1)
	case service == "secret":
		status = "16"
	case service == "none":
		status = "12"
	case service == "strange":
		status = "\x1b[31m"
	default:
		status = "5"
	}
	w.Header().Set("Grpc-Status", status)
}

// TestWebProbes has a row for each way to ask over HTTP: what passes, and what the error
// says otherwise.
func TestWebProbes(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		if agent := r.UserAgent(); agent != "machinemon-update health-gate" {
			t.Errorf("the request is of %q", agent)
		}
		w.Write([]byte("all is well"))
	})
	mux.HandleFunc("/204", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })
	mux.HandleFunc("/503", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	mux.HandleFunc("/host", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) })
	mux.HandleFunc("/basic", func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "probe" || password != "hunter2:x" {
			w.WriteHeader(401)
		}
	})
	mux.HandleFunc("/bearer", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer hunter2" || r.Header.Get("X-Tenant") != "a: b" {
			w.WriteHeader(403)
		}
	})
	mux.HandleFunc("/grpc.health.v1.Health/Check", grpcServer)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("the host of a redirect was asked, with %q", r.Header)
	}))
	defer elsewhere.Close()
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	})
	serve := func(tls bool, network, address string) *httptest.Server {
		s := httptest.NewUnstartedServer(mux)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.Config.Protocols = &http.Protocols{}
		s.Config.Protocols.SetHTTP1(true)
		s.Config.Protocols.SetHTTP2(true)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		if network != "tcp" {
			s.Listener.Close()
			l, err := net.Listen(network, address)
			testkit.Must(t, err)
			s.Listener = l
		}
		if s.EnableHTTP2 = tls; tls {
			s.StartTLS()
		} else {
			s.Start()
		}
		t.Cleanup(s.Close)
		return s
	}
	web, secure := serve(false, "tcp", ""), serve(true, "tcp", "")
	socket, secureSocket := filepath.Join(t.TempDir(), "s"), filepath.Join(t.TempDir(), "t")
	serve(false, "unix", socket)
	serve(true, "unix", secureSocket)
	echo := serveRaw(t)
	tls := strings.Replace(secure.URL, "127.0.0.1", "localhost", 1) // the certificate has no such name

	hand(t, "/ca", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})))
	hand(t, "/none", "hunter2")
	hand(t, "/gone", target.NoFile)
	hand(t, "/bearer", "# of the monitor\n\nAuthorization: Bearer hunter2\r\nX-Tenant:a: b\n")
	hand(t, "/basic", "Authorization: Basic probe:hunter2:x\n")
	hand(t, "/encoded", "Authorization: Basic cHJvYmU6aHVudGVyMjp4\n")
	hand(t, "/host", "Host: example.com")
	hand(t, "/bad", "X: y\nhunter2\n")
	hand(t, "/control", "X: hunter2\x1b[31m\n")
	hand(t, "/empty", "# nothing\n")

	var rows []testkit.Row
	const pass, right = "", " (hint: does /basic have the right credentials?)"
	for _, c := range []struct {
		probe target.Probe
		want  string
	}{
		// Statuses.
		{target.Probe{HTTP: web.URL + "/ok", ExpectClass: 2}, pass},
		{target.Probe{HTTP: web.URL + "/204", ExpectClass: 2, ExpectBody: ""}, pass},
		{target.Probe{HTTP: web.URL + "/503", ExpectClass: 5}, pass},
		{target.Probe{HTTP: web.URL + "/503", ExpectClass: 2}, "status 503 instead of 2xx"},
		{target.Probe{HTTP: web.URL + "/moved", ExpectClass: 2}, "status 307 instead of 2xx"},
		{target.Probe{HTTP: web.URL + "/moved", ExpectClass: 2, HeadersFile: "/bearer"}, "status 307 instead of 2xx"},
		// Certificates.
		{target.Probe{HTTP: secure.URL + "/ok", ExpectStatus: 200}, "x509: certificate signed by unknown authority (hint: ca_file in this probe names the certificate of its authority)"},
		{target.Probe{HTTP: secure.URL + "/ok", ExpectStatus: 200, CAFile: "/ca"}, pass},
		{target.Probe{HTTP: secure.URL + "/ok", ExpectStatus: 200, InsecureSkipTLS: true}, pass},
		{target.Probe{HTTP: tls + "/ok", ExpectStatus: 200, CAFile: "/ca"}, "x509: certificate is valid for example.com, *.example.com, not localhost (hint: is the certificate made by an authority in /ca, and for this name?)"},
		{target.Probe{HTTP: tls + "/ok", ExpectStatus: 200, InsecureSkipTLS: true}, pass},
		{target.Probe{HTTP: secure.URL + "/ok", ExpectStatus: 200, CAFile: "/none"}, "ca_file /none has no certificate (hint: it needs one in PEM)"},
		{target.Probe{HTTP: secure.URL + "/ok", ExpectStatus: 200, CAFile: "/gone"}, "ca_file /gone does not exist (hint: make it, or leave ca_file out)"},
		{target.Probe{HTTP: secure.URL + "/ok", ExpectStatus: 200, CAFile: "/new"}, "ca_file /new was not handed over (hint: sudo systemctl daemon-reload)"},
		// Headers.
		{target.Probe{HTTP: web.URL + "/bearer", ExpectStatus: 200, HeadersFile: "/bearer"}, pass},
		{target.Probe{HTTP: secure.URL + "/bearer", ExpectStatus: 200, HeadersFile: "/bearer", CAFile: "/ca"}, pass},
		{target.Probe{HTTP: web.URL + "/basic", ExpectStatus: 200, HeadersFile: "/basic"}, pass},
		{target.Probe{HTTP: web.URL + "/basic", ExpectStatus: 200, HeadersFile: "/encoded"}, pass},
		{target.Probe{HTTP: web.URL + "/bearer", ExpectStatus: 200, HeadersFile: "/basic"}, "status 403 instead of 200" + right},
		{target.Probe{HTTP: web.URL + "/basic", ExpectClass: 2}, "status 401 instead of 2xx (hint: headers_file in this probe names a file with credentials)"},
		{target.Probe{HTTP: web.URL + "/host", ExpectStatus: 200, ExpectBody: "example.com", HeadersFile: "/host"}, pass},
		{target.Probe{HTTP: web.URL + "/ok", ExpectStatus: 200, HeadersFile: "/gone"}, "headers_file /gone does not exist (hint: make it, or leave headers_file out)"},
		{target.Probe{HTTP: web.URL + "/ok", ExpectStatus: 200, HeadersFile: "/new"}, "headers_file /new was not handed over (hint: sudo systemctl daemon-reload)"},
		{target.Probe{HTTP: web.URL + "/ok", ExpectStatus: 200, HeadersFile: "/bad"}, "headers_file /bad: line 2 is not a header (hint: NAME: VALUE)"},
		{target.Probe{HTTP: web.URL + "/ok", ExpectStatus: 200, HeadersFile: "/control"}, "headers_file /control: line 1 is not a header (hint: NAME: VALUE)"},
		{target.Probe{HTTP: web.URL + "/ok", ExpectStatus: 200, HeadersFile: "/empty"}, "headers_file /empty has no header (hint: NAME: VALUE)"},
		{target.Probe{HTTP: "http://" + echo + "/", ExpectStatus: 200, HeadersFile: "/bearer"}, "its answer is not understood"},
		{target.Probe{GRPC: "http://" + echo + "/", HeadersFile: "/bearer"}, noGRPC},
		// Unix sockets.
		{target.Probe{HTTP: "http://localhost/ok", Unix: socket, ExpectStatus: 200, ExpectBody: "well"}, pass},
		{target.Probe{HTTP: "http://localhost/bearer", Unix: socket, ExpectStatus: 200, HeadersFile: "/bearer"}, pass},
		{target.Probe{HTTP: "https://example.com/ok", Unix: secureSocket, ExpectStatus: 200, CAFile: "/ca"}, pass},
		{target.Probe{HTTP: "https://localhost/ok", Unix: secureSocket, ExpectStatus: 200}, "x509: certificate is valid for example.com, *.example.com, not localhost (hint: ca_file in this probe names the certificate of its authority)"},
		{target.Probe{HTTP: "http://localhost/503", Unix: socket, ExpectStatus: 200}, "status 503 instead of 200"},
		{target.Probe{HTTP: "http://localhost/ok", Unix: socket + "x", ExpectStatus: 200}, "no such file or directory"},
		// gRPC.
		{target.Probe{GRPC: web.URL}, pass},
		{target.Probe{GRPC: web.URL + "/my.Service"}, pass},
		{target.Probe{GRPC: "http://localhost/my.Service", Unix: socket}, pass},
		{target.Probe{GRPC: secure.URL + "/my.Service", CAFile: "/ca"}, pass},
		{target.Probe{GRPC: secure.URL + "/my.Service"}, "x509: certificate signed by unknown authority (hint: ca_file in this probe names the certificate of its authority)"},
		{target.Probe{GRPC: web.URL + "/secret", HeadersFile: "/bearer"}, pass},
		{target.Probe{GRPC: web.URL + "/secret"}, "it denies the request (hint: headers_file in this probe names a file with credentials)"},
		{target.Probe{GRPC: web.URL + "/down"}, "its health service says NOT_SERVING instead of SERVING"},
		{target.Probe{GRPC: web.URL + "/unset"}, "its health service says UNKNOWN instead of SERVING"},
		{target.Probe{GRPC: web.URL + "/later"}, "its health service says 200 instead of SERVING"},
		{target.Probe{GRPC: web.URL + "/torn"}, "the answer of its health service is not understood"},
		{target.Probe{GRPC: web.URL + "/other"}, "the answer of its health service is not understood"},
		{target.Probe{GRPC: web.URL + "/missing"}, "it does not know the service (hint: the path of the probe's URL names it)"},
		{target.Probe{GRPC: web.URL + "/none"}, "it has no health service (grpc.health.v1.Health)"},
		{target.Probe{GRPC: oldServer(t)}, noGRPC},
		{target.Probe{GRPC: plainServer(t)}, "it is no server of gRPC: status 200"},
	} {
		rows = append(rows, rowOf(c.probe, c.want))
		c.probe.Foreign = true // TestPeers shows which programs may answer
		p := probers(target.Health{Probes: []target.Probe{c.probe}}, nil)[0]
		err := try(t.Context(), p, peers{}, answerLimit)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.probe, got, c.want)
		}
		if _, is := errors.AsType[mistaken](err); is && !strings.Contains(got, "(hint: ") || is != strings.Contains(got, "_file /") && !strings.Contains(got, "made by") {
			t.Errorf("%s: a mistake of the target file: %v: %v", c.probe, is, err)
		}
		if strings.Contains(got, "hunter2") || strings.ContainsAny(got, "\x1b\n") {
			t.Errorf("%s: unfit for a report: %q", c.probe, got)
		}
	}
	testkit.Accepted(t, "Probes over HTTP and gRPC", rows)
}

// TestHeaderNames checks that a line whose name is none is refused, and is not repeated.
func TestHeaderNames(t *testing.T) {
	for _, line := range []string{"X Y: hunter2", ": hunter2", "X:", "hunter2"} {
		hand(t, "/line", line+"\n")
		if h, err := headers("/line"); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v, %v", line, h, err)
		}
	}
}

// TestManyHeaders: a file has at most as many headers as the hint says.
func TestManyHeaders(t *testing.T) {
	for n, fails := range map[int]bool{mostHeaders: false, mostHeaders + 1: true} {
		var text strings.Builder
		for i := range n {
			fmt.Fprintf(&text, "X-%d: v\n", i)
		}
		hand(t, "/many", text.String())
		if _, err := headers("/many"); (err != nil) != fails || fails && !strings.Contains(err.Error(), "has too many headers (hint: at most ") {
			t.Errorf("%d headers: %v", n, err)
		}
	}
}

// TestGRPCStatus reads answers that no server of gRPC gives.
func TestGRPCStatus(t *testing.T) {
	for _, frame := range []string{"", "\x00\x00\x00\x00", "\x01\x00\x00\x00\x02\x08\x01", "\x00\x00\x00\x00\x01\x08", "\x00\x00\x00\x00\x02\x08\x80", "\x00\x00\x00\x00\x02\x08\x01\x08"} {
		if status, err := grpcStatus([]byte(frame)); err == nil {
			t.Errorf("%q: status %d", frame, status)
		}
	}
}

// serveRaw returns the address of a server that answers with what it was sent.
func serveRaw(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.Must(t, err)
	t.Cleanup(func() { l.Close() })
	go testkit.Answer(l, func(c net.Conn) {
		b := make([]byte, 4096)
		n, _ := c.Read(b)
		c.Write(append([]byte("Authorization: Bearer hunter2 "), b[:n]...))
	})
	return l.Addr().String()
}

// noGRPC is the report of a server that does not speak HTTP/2.
const noGRPC = "it ended the connection or does not speak HTTP/2 (hint: is it a server of gRPC, and does it expect https?)"

// oldServer returns the URL of a web server that speaks HTTP/1 only.
func oldServer(t *testing.T) string {
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	return s.URL
}

// plainServer returns the URL of a web server that speaks HTTP/2, but not gRPC.
func plainServer(t *testing.T) string {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") })
	s.Config.Protocols = &http.Protocols{}
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

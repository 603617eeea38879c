package target

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Probe asks the program whether it works. Exactly one of HTTP, GRPC, TCP, Unix, Command
// and Journal is set, but Unix may also say where HTTP or GRPC is.
type Probe struct {
	HTTP         string // URL to GET
	ExpectStatus int    // of HTTP; 0 beside ExpectClass
	ExpectClass  int    // the first digit of the status of HTTP; 0 beside ExpectStatus
	ExpectBody   string // text that the answer to HTTP must contain

	GRPC string // URL of a server with the health service of gRPC; its path is the service that is asked for

	TCP     string // host:port to connect to
	Unix    string // socket to connect to
	Command []string
	Journal string // text in a line that the unit has logged since its latest start

	// Foreign says that HTTP, GRPC, TCP or Unix may be answered by a program outside of
	// the unit.
	Foreign bool

	CAFile          string // of the certificates that take the place of the system's; "" for none
	InsecureSkipTLS bool   // do not verify the server's certificate
	HeadersFile     string // of the request's headers, which may be secret; "" for none

	Timeout time.Duration // of a try; 0 for the kind's default
}

// URL returns the URL that the probe asks, or "".
func (p Probe) URL() string { return cmp.Or(p.HTTP, p.GRPC) }

// Connects reports whether the probe makes a connection.
func (p Probe) Connects() bool { return p.URL()+p.TCP+p.Unix != "" }

func (p Probe) overTLS() bool { return strings.HasPrefix(p.URL(), "https:") }

// LeavesLoopback reports whether the gate itself needs addresses beyond the loopback: of a
// probe that names another one, or any name, which a server elsewhere may have to resolve.
func (t *Target) LeavesLoopback() bool {
	return slices.ContainsFunc(t.Health.Probes, func(p Probe) bool {
		if p.Unix != "" || p.URL()+p.TCP == "" {
			return false
		}
		host, _, _ := net.SplitHostPort(p.TCP)
		if u, err := url.Parse(p.URL()); err == nil && p.TCP == "" {
			host = u.Hostname()
		}
		ip, _ := netip.ParseAddr(host)
		return !ip.IsLoopback()
	})
}

// String names the probe in reports, for example "tcp 127.0.0.1:8080". It omits a
// command's arguments and a URL's query: they may contain secrets.
func (p Probe) String() string {
	switch {
	case p.URL() != "":
		name := "http"
		if p.GRPC != "" {
			name = "grpc"
		}
		if u, err := url.Parse(p.URL()); err == nil {
			u.RawQuery = ""
			name += " " + u.Redacted()
		}
		if p.Unix != "" {
			name += " at " + p.Unix
		}
		return name
	case p.TCP != "":
		return "tcp " + p.TCP
	case p.Unix != "":
		return "unix " + p.Unix
	case len(p.Command) > 0:
		return "command " + p.Command[0]
	case p.Journal != "":
		return "journal " + strconv.Quote(p.Journal)
	}
	return "empty probe"
}

// Key returns an ID of the probe's whole text, of which String omits parts: a probe that
// was changed is another one. A field that is added to Probe later does not change the
// keys of probes that leave it empty.
func (p Probe) Key() string {
	text := map[string]any{}
	v := reflect.ValueOf(p)
	for i := range v.NumField() {
		if f := v.Field(i); !f.IsZero() {
			text[v.Type().Field(i).Name] = f.Interface()
		}
	}
	canonical, err := json.Marshal(text) // json.Marshal sorts the keys
	if err != nil {
		panic(err) // strings and numbers cannot fail
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:])
}

// Files returns the files of the probe that only root may be able to read. systemd hands
// them to the gate as credentials.
func (p Probe) Files() []string {
	return slices.DeleteFunc([]string{p.CAFile, p.HeadersFile}, func(file string) bool { return file == "" })
}

// Credential returns the ID of the credential that has the content of a probe's file. It
// depends on the file only, so that after an edit of the target file no probe gets
// another's.
func Credential(file string) string {
	sum := sha256.Sum256([]byte(file))
	return "probe-" + hex.EncodeToString(sum[:16])
}

// NoFile is the content of the credential of a file that does not exist.
const NoFile = "no such file"

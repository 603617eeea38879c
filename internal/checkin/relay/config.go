package relay

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/target"
)

// ConfigFile is the path of the operator's configuration. Its first two keys are named
// as in the agent's configuration, so that a target's source.url_from can read them.
const ConfigFile = "/etc/machinemon-update/checkin-relay.toml"

// Config is the relay's configuration after validation.
type Config struct {
	CheckIn         *url.URL // the server's URL for check-ins
	InsecureSkipTLS bool
	Roots           *x509.CertPool // nil: the system's
	Target          string
}

// file is the configuration as written.
type file struct {
	ServerURL       string `toml:"server_url"`
	InsecureSkipTLS bool   `toml:"insecure_skip_tls"`
	CAFile          string `toml:"ca_file"`
	Target          string `toml:"target"`
}

var keys = []string{"server_url", "insecure_skip_tls", "ca_file", "target"}

// Load reads and checks the configuration: see [checkin.LoadConfig].
func Load(path string) (*Config, error) {
	f := file{Target: "agent"}
	return checkin.LoadConfig(path, keys, &f, f.check)
}

func (f *file) check() (*Config, error) {
	c := &Config{InsecureSkipTLS: f.InsecureSkipTLS, Target: f.Target}
	u, err := url.Parse(f.ServerURL)
	switch {
	case f.ServerURL == "":
		return nil, errors.New("server_url: is missing (hint: sudo machinemon-checkin-relay --setup takes it from the agent's configuration)")
	// The operator may choose http, as in the agent's configuration.
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New(`server_url: must be the MachineMon server's URL (allowed: "https://HOST/PATH" or "http://HOST/PATH", without user, password, query and fragment)`)
	}
	c.CheckIn = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimRight(u.Path, "/") + path}
	if !target.ValidName(f.Target) {
		return nil, errors.New("target: is not a target's name (allowed: 1 to 64 of a-z 0-9 . _ -, the first a letter or digit)")
	}
	if f.CAFile == "" {
		return c, nil
	}
	if f.InsecureSkipTLS {
		return nil, errors.New("ca_file: has no effect beside insecure_skip_tls = true (hint: remove insecure_skip_tls)")
	}
	if !filepath.IsAbs(f.CAFile) {
		return nil, errors.New(`ca_file: must be an absolute path (allowed: "/DIR/NAME")`)
	}
	pem, err := os.ReadFile(f.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w (hint: the user %s must be able to read it)", err, User)
	}
	if c.Roots = x509.NewCertPool(); !c.Roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file: %s has no certificate in PEM form", f.CAFile)
	}
	return c, nil
}

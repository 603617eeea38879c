package gate

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/durable"
)

// ConfigFile is the path of the operator's configuration.
const ConfigFile = "/etc/machinemon-update/checkin-gate.toml"

// Config is the gate's configuration after validation.
type Config struct {
	Upstream    *url.URL         // with the path that a proxy before the server strips, or without
	UpstreamTLS *tls.Config      // nil: as usual
	External    string           // the address of the gate for clients, without a slash at its end; "": as they requested it
	BasePath    string           // "" or "/monitor": what the gate strips
	Certificate *tls.Certificate // nil: plain HTTP
	Trusted     []netip.Prefix   // proxies whose headers about the client are trusted
	DownloadDir string
	// ReleaseNotes is the address of a release's notes, with {version}; "" for none.
	ReleaseNotes string
	Manifest     string // path relative to DownloadDir
	Database     string // path of an SQLite file, or a PostgreSQL URL
	// Warnings are about files with secrets that every user can read. They are no errors:
	// the gate is in front of a server that has to be reached.
	Warnings []string
}

// file is the configuration as written, with its defaults.
type file struct {
	Upstream        string   `toml:"upstream"`
	UpstreamCAFile  string   `toml:"upstream_ca_file"`
	UpstreamSkipTLS bool     `toml:"upstream_insecure_skip_tls"`
	ExternalURL     string   `toml:"external_url"`
	BasePath        string   `toml:"base_path"`
	TLSCertificate  string   `toml:"tls_certificate"`
	TLSKey          string   `toml:"tls_key"`
	TrustedProxies  []string `toml:"trusted_proxies"`
	DownloadDir     string   `toml:"download_dir"`
	Manifest        string   `toml:"manifest"`
	Database        string   `toml:"database"`
	ReleaseNotes    string   `toml:"release_notes"`
}

var keys = []string{"upstream", "upstream_ca_file", "upstream_insecure_skip_tls", "external_url", "base_path", "tls_certificate", "tls_key", "trusted_proxies", "download_dir", "manifest", "database", "release_notes"}

func defaults() file {
	return file{
		Upstream:    "http://127.0.0.1:8080",
		DownloadDir: "/var/lib/machinemon-update/download",
		Manifest:    "client-manifest.json",
		Database:    "/var/lib/machinemon-update/checkin/gate.db",
	}
}

// Load reads and checks the configuration: see [checkin.LoadConfig].
func Load(path string) (*Config, error) {
	f := defaults()
	c, err := checkin.LoadConfig(path, keys, &f, f.check)
	if err != nil {
		return nil, err
	}
	if isAddress(c.Database) {
		if a, err := parseAddress(c.Database); err == nil && a.Password != "" {
			c.warn("the database's password in", path)
		}
	}
	if f.TLSKey != "" {
		c.warn("the key in", f.TLSKey)
	}
	return c, nil
}

// warn adds a warning if every user can read the file.
func (c *Config) warn(what, file string) {
	if secret, err := durable.Secret(file); err == nil && !secret {
		c.Warnings = append(c.Warnings, fmt.Sprintf("every user can read %s %s (hint: chown root:machinemon-checkin %s, chmod 0640 %s)", what, file, file, file))
	}
}

func (f *file) check() (*Config, error) {
	c := &Config{BasePath: f.BasePath, DownloadDir: f.DownloadDir, Manifest: f.Manifest, Database: f.Database, ReleaseNotes: f.ReleaseNotes}
	var err error
	if c.Upstream, err = address(f.Upstream); err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	if err := f.checkUpstreamTLS(c); err != nil {
		return nil, err
	}
	if f.ExternalURL != "" {
		u, err := address(f.ExternalURL)
		if err != nil {
			return nil, fmt.Errorf("external_url: %w", err)
		}
		if c.External = u.String(); !plainAddress.MatchString(c.External) {
			return nil, errors.New("external_url: must have only letters, digits and . _ ~ - in its path")
		}
		c.BasePath = cmp.Or(c.BasePath, u.Path) // as MachineMon does
	}
	if !isBase(c.BasePath) {
		return nil, errors.New(`base_path: must be MachineMon's base_path (allowed: "", "/NAME", "/NAME/NAME")`)
	}
	if (f.TLSCertificate == "") != (f.TLSKey == "") {
		return nil, errors.New("tls_certificate, tls_key: must be set both or not at all")
	}
	if f.TLSKey != "" {
		pair, err := tls.LoadX509KeyPair(f.TLSCertificate, f.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("tls_certificate, tls_key: %w (hint: the user machinemon-checkin must be able to read them; with LoadCredential= only root must, see machinemon-checkin-gate(8))", err)
		}
		c.Certificate = &pair
	}
	for _, s := range f.TrustedProxies {
		p, err := netip.ParsePrefix(s)
		if a, failed := netip.ParseAddr(s); failed == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf(`trusted_proxies: %.60q is not an address (allowed: "192.0.2.1", "192.0.2.0/24", "2001:db8::/32")`, s)
		}
		c.Trusted = append(c.Trusted, p)
	}
	paths := map[string]string{"download_dir": c.DownloadDir}
	if isAddress(c.Database) {
		if _, err := parseAddress(c.Database); err != nil {
			return nil, fmt.Errorf("database: %w", err)
		}
	} else {
		paths["database"] = c.Database
	}
	for key, path := range paths {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path {
			allowed := `"/DIR/NAME", without . and .. elements`
			if key == "database" {
				allowed += `, or PostgreSQL's address: "postgres://USER@HOST/NAME"`
			}
			return nil, fmt.Errorf("%s: must be an absolute path (allowed: %s)", key, allowed)
		}
	}
	if !servable(c.Manifest) {
		return nil, errors.New(`manifest: must be a file's name in download_dir (allowed: "NAME", "DIR/NAME", none beginning with a dot)`)
	}
	if u, err := url.Parse(strings.ReplaceAll(f.ReleaseNotes, "{version}", "")); f.ReleaseNotes != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil) {
		return nil, errors.New(`release_notes: must be an address (allowed: "https://HOST/PATH", with {version} for the release's version)`)
	}
	return c, nil
}

// plainAddress matches an address that means the same in a shell script.
var plainAddress = regexp.MustCompile(`^https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~-]+)*$`)

// isBase reports whether path is a prefix of paths, without a slash at its end.
func isBase(path string) bool {
	return path == "" || path[0] == '/' && fs.ValidPath(path[1:]) && path != "/."
}

// address parses the address of a server or of a directory on it.
func address(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err == nil {
		u.Path = strings.TrimRight(u.Path, "/")
	}
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery ||
		u.Fragment != "" || !isBase(u.Path) {
		return nil, errors.New(`must be an address (allowed: "http://HOST:PORT", "https://HOST:PORT", "https://HOST/NAME")`)
	}
	return u, nil
}

// checkUpstreamTLS sets how the gate verifies the server.
func (f *file) checkUpstreamTLS(c *Config) error {
	switch {
	case f.UpstreamCAFile == "" && !f.UpstreamSkipTLS:
		return nil
	case c.Upstream.Scheme != "https":
		return errors.New("upstream_ca_file, upstream_insecure_skip_tls: need an upstream that begins with https")
	case f.UpstreamCAFile != "" && f.UpstreamSkipTLS:
		return errors.New("upstream_ca_file, upstream_insecure_skip_tls: must not be set both")
	}
	c.UpstreamTLS = &tls.Config{InsecureSkipVerify: f.UpstreamSkipTLS}
	if f.UpstreamCAFile == "" {
		return nil
	}
	pem, err := os.ReadFile(f.UpstreamCAFile)
	if err != nil {
		return fmt.Errorf("upstream_ca_file: %w (hint: the user machinemon-checkin must be able to read it)", err)
	}
	c.UpstreamTLS.RootCAs = x509.NewCertPool()
	if !c.UpstreamTLS.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("upstream_ca_file: %s has no certificate in PEM format", f.UpstreamCAFile)
	}
	return nil
}

package download

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// maxRoots is how many bytes of certificates are read. Debian's file of all certificates
// has a quarter of that.
const maxRoots = 1 << 20

// proxyOf returns the target's proxy with the user and password for it, or nil for none. It
// ignores the environment.
func proxyOf(t *target.Target) (*url.URL, error) {
	if t.Source.Proxy == "" {
		return nil, nil
	}
	u, err := url.Parse(t.Source.Proxy)
	if err != nil {
		return nil, state.Fail(state.ResultMisconfigured, "cannot fetch %s: source.proxy is not valid", t.Name)
	}
	if t.Source.ProxyLoginFile == "" {
		return u, nil
	}
	login, err := Credential(t.Name, "the login of source.proxy_login_file", "proxy-login")
	if err != nil {
		return nil, err
	}
	user, password, ok := strings.Cut(login, ":")
	if !ok || user == "" || strings.ContainsFunc(login, unicode.IsControl) {
		return nil, state.Fail(state.ResultMisconfigured, "cannot fetch %s: source.proxy_login_file has no login (hint: one line USER:PASSWORD, in a file that exists)", t.Name)
	}
	u.User = url.UserPassword(user, password)
	return u, nil
}

// proxyAnswer returns an error for a proxy that does not connect to a server.
func proxyAnswer(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return proxyRefused(resp.StatusCode)
}

func proxyRefused(status int) error {
	hint := ""
	if status == http.StatusProxyAuthRequired {
		hint = " (hint: source.proxy_login_file names a file with USER:PASSWORD for it)"
	}
	return fmt.Errorf("the proxy answered %d %s%s", status, http.StatusText(status), hint)
}

// rootsOf returns the certificates for the target's servers, or nil for the system's.
func rootsOf(t *target.Target) (*x509.CertPool, error) {
	if t.Source.CAFile == "" {
		return nil, nil
	}
	f, err := os.OpenFile(t.Source.CAFile, os.O_RDONLY|unix.O_NONBLOCK, 0)
	var pem []byte
	if err == nil {
		defer f.Close()
		pem, err = durable.ReadAll(f, maxRoots)
	}
	pool := x509.NewCertPool()
	if err == nil && !pool.AppendCertsFromPEM(pem) {
		err = errors.New("it has no certificate in PEM")
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, state.Fail(state.ResultMisconfigured, "cannot fetch %s: source.ca_file: %w "+
			"(hint: the group machinemon-fetch must be able to read it)", t.Name, durable.Cause(err))
	}
	if err != nil {
		return nil, state.Fail(state.ResultMisconfigured, "cannot fetch %s: source.ca_file: %w", t.Name, durable.Cause(err))
	}
	return pool, nil
}

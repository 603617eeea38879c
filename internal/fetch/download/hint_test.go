package download

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"
)

// TestHinted: the cure depends on whose certificates are trusted.
func TestHinted(t *testing.T) {
	unknown := &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
	for _, c := range []struct {
		client Client
		err    error
		want   string // after the error's own text
	}{
		{Client{}, unknown, " (hint: source.ca_file names that of an authority of your own)"},
		{Client{caFile: "/x"}, unknown, " (hint: source.ca_file must have the certificate of its authority)"},
		{Client{Named: true}, unknown, " (hint: sudo update-ca-certificates adds that of an authority of your own to the system's)"},
		{Client{}, &net.DNSError{Err: "no such host", Name: "x.example"}, " (hint: is the name right? getent hosts x.example shows whether this machine can resolve it)"},
		{Client{}, errors.New("connect: connection refused"), ""},
	} {
		if got := c.client.hinted(c.err); got.Error() != c.err.Error()+c.want || !errors.Is(got, c.err) {
			t.Errorf("got %q, want %q behind %q", got, c.want, c.err)
		}
	}
}

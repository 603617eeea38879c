package download

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
)

// hinted adds to an error without an answer what the operator can do about it. A server that
// is only away needs nothing: the next run asks again.
func (c *Client) hinted(err error) error {
	hint := ""
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	_, isName := errors.AsType[x509.HostnameError](err)
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	dns, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case isInvalid && invalid.Reason == x509.Expired:
		hint = "timedatectl shows whether this machine's clock is right; if it is, the server needs a new certificate"
	case isName:
		hint = "the address must have a name that the server's certificate has"
	case untrusted && c.caFile != "":
		hint = "source.ca_file must have the certificate of its authority"
	case untrusted && c.Named:
		hint = "sudo update-ca-certificates adds that of an authority of your own to the system's"
	case untrusted:
		hint = "source.ca_file names that of an authority of your own"
	case errors.Is(err, http.ErrSchemeMismatch):
		hint = "is the port right? it answers without TLS"
	case isDNS:
		hint = "is the name right? getent hosts " + dns.Name + " shows whether this machine can resolve it"
	default:
		return err
	}
	return fmt.Errorf("%w (hint: %s)", err, hint)
}

package health

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"

	"github.com/machinemon/machinemon-update/internal/target"
)

// maxBody is how many bytes of an answer are read.
const maxBody = 1 << 20

// ask sends the request of a probe over http or gRPC, and returns the answer, whose
// connection ends with ctx. The client makes a new connection, uses no proxy, and follows
// no redirect.
func ask(ctx context.Context, p target.Probe, who peers, req *http.Request) (*http.Response, error) {
	header, err := headers(p.HeadersFile)
	if err != nil {
		return nil, err
	}
	trusted, err := trust(p)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "machinemon-update health-gate")
	}
	client := &http.Client{
		Transport: &http.Transport{
			// The request may hold a secret, so the program is checked before it is sent.
			DialContext:            socketOf(p, who.dialer(p.Foreign)),
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
			TLSClientConfig:        trusted,
			Protocols:              protocols(p),
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req.WithContext(ctx))
	if err != nil {
		return nil, requestError(p, err)
	}
	return resp, nil
}

// protocols returns the versions of HTTP that the probe uses: gRPC needs HTTP/2, also
// without TLS.
func protocols(p target.Probe) *http.Protocols {
	v := &http.Protocols{}
	v.SetHTTP1(p.GRPC == "")
	v.SetHTTP2(p.GRPC != "")
	v.SetUnencryptedHTTP2(p.GRPC != "")
	return v
}

// socketOf returns a function that connects to the probe's Unix socket, if it has one,
// instead of the host in its URL.
func socketOf(p target.Probe, dial dialing) dialing {
	if p.Unix == "" {
		return dial
	}
	return func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, "unix", p.Unix) }
}

// trust returns which certificates the probe accepts.
func trust(p target.Probe) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: p.InsecureSkipTLS}
	if p.CAFile == "" {
		return config, nil
	}
	pem, err := handed("ca_file", p.CAFile)
	if err != nil {
		return nil, err
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, mistaken{fmt.Errorf("ca_file %s has no certificate (hint: it needs one in PEM)", p.CAFile)}
	}
	return config, nil
}

// requestError returns why a request failed. If it held headers of the operator, the text of an
// answer that is not understood is left out, because it may repeat them.
func requestError(p target.Probe, err error) error {
	var untrusted *tls.CertificateVerificationError
	switch _, known := judged(err); {
	case known:
		return plain(err)
	case errors.As(err, &untrusted) && p.CAFile != "":
		return fmt.Errorf("%w (hint: is the certificate made by an authority in %s, and for this name?)", plain(untrusted.Err), p.CAFile)
	case errors.As(err, &untrusted):
		return fmt.Errorf("%w (hint: ca_file in this probe names the certificate of its authority)", plain(untrusted.Err))
	case p.GRPC != "" && connected(err):
		return errors.New("it ended the connection or does not speak HTTP/2 (hint: is it a server of gRPC, and does it expect https?)")
	case p.HeadersFile != "" && !harmless(err):
		return errors.New("its answer is not understood")
	}
	return plain(err)
}

// connected reports whether the request failed after the connection was made. A server of
// HTTP/1 can end it before, while or after it answers, and the client's error differs.
func connected(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return false
	}
	_, isTLS := errors.AsType[tls.RecordHeaderError](err)
	return !isTLS && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}

// harmless reports whether the error's text has nothing that a program sent.
func harmless(err error) bool {
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return true
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded)
}

// get asks a probe of the kind http.
func get(ctx context.Context, p target.Probe, who peers) error {
	req, err := http.NewRequest(http.MethodGet, p.HTTP, nil)
	if err != nil {
		return plain(err)
	}
	resp, err := ask(ctx, p, who, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != p.ExpectStatus && resp.StatusCode/100 != p.ExpectClass {
		return fmt.Errorf("status %d instead of %s%s", resp.StatusCode, expected(p), denied(p, resp.StatusCode))
	}
	if p.ExpectBody == "" {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if bytes.Contains(body, []byte(p.ExpectBody)) {
		return nil
	}
	if err != nil {
		return requestError(p, err)
	}
	return errors.New("its answer does not contain the expected text")
}

// expected describes the status that the probe expects.
func expected(p target.Probe) string {
	if p.ExpectClass > 0 {
		return fmt.Sprintf("%dxx", p.ExpectClass)
	}
	return fmt.Sprint(p.ExpectStatus)
}

// denied returns a hint about a status for which the request's headers are the likely
// cause, or "".
func denied(p target.Probe, status int) string {
	switch {
	case status != http.StatusUnauthorized && status != http.StatusForbidden:
		return ""
	case p.HeadersFile != "":
		return " (hint: does " + p.HeadersFile + " have the right credentials?)"
	}
	return " (hint: headers_file in this probe names a file with credentials)"
}

// proofOf describes what is proven if a probe over http passes.
func proofOf(p target.Probe) string {
	text := "status " + expected(p)
	if p.ExpectBody != "" {
		text += ", with the expected text"
	}
	return text
}

package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/target"
)

// Named is a release that an operator names in place of a target's source.
type Named struct {
	Path   string // of a directory, manifest or archive on this machine
	URL    string // of an archive, where Path is ""
	SHA256 string // that the archive must have; "" when the operator does not say
}

// String is for messages: a query may be a secret.
func (n Named) String() string {
	if u, err := url.Parse(n.URL); n.URL != "" && err == nil {
		return show(u)
	}
	return n.Path
}

var namedDigest = regexp.MustCompile(`^(.+)#sha256=([0-9A-Fa-f]{64})$`)

// ParseNamed reads a path, a file: URL, or the URL of an archive, each with
// #sha256=HEX at its end if the operator knows the archive's digest. The URL is
// https, or http from this machine: with any other, whoever is on the path would
// decide what root installs.
func ParseNamed(s string) (Named, error) {
	var n Named
	if m := namedDigest.FindStringSubmatch(s); m != nil {
		s, n.SHA256 = m[1], strings.ToLower(m[2])
	}
	if !strings.Contains(s, "://") {
		n.Path = s
		return n, nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return n, errors.New("cannot use the URL: it is not valid")
	case u.Fragment != "":
		return n, fmt.Errorf("cannot use %s: what stands behind the # is not sha256= and 64 hex digits", show(u))
	case u.Scheme == "file" && (u.Host == "" || u.Host == "localhost"):
		n.Path = u.Path
	case u.Scheme != "https" && (u.Scheme != "http" || !target.Loopback(u.Hostname())):
		return n, fmt.Errorf("cannot use %s: it is neither https nor on this machine", show(u))
	case u.Host == "" || u.User != nil:
		return n, fmt.Errorf("cannot use %s: it has no host, or a user name", show(u))
	default:
		n.URL = s
	}
	return n, nil
}

const (
	// unknownVersion is that of an archive of which nothing is known but where it
	// is, until it has come.
	unknownVersion = "unknown"
	// bareName is what such an archive is called whose own name a manifest would not
	// take. The format is told by the content.
	bareName = "archive"
)

// bare makes the manifest of an archive that has none, by the word of the operator
// who named it. Its version is in its name, if source.asset says where, or else it
// is the digest's beginning: good enough to tell one archive from another. sum is
// "" while nobody knows it.
func bare(t *target.Target, file string, size int64, sum string) (*manifest.Manifest, error) {
	key := manifest.Host()
	version := t.Source.VersionIn(file, key)
	switch {
	case manifest.ValidName(version):
	case len(t.Health.VersionCommand) > 0:
		return nil, refused("cannot use %s: nothing tells its version, which %s is asked for "+
			"(hint: make a manifest with machinemon-release publish)", file, t.Health.VersionCommand[0])
	case sum != "":
		version = digestVersion(sum)
	default:
		version = unknownVersion
	}
	if sum == "" {
		sum = unknownDigest
	}
	return &manifest.Manifest{Schema: manifest.Schema, Product: t.Trust.Product, Version: version,
		Platforms: map[string]manifest.Platform{key: {File: file, SHA256: sum, Size: size}}}, nil
}

func digestVersion(sum string) string { return "sha256-" + sum[:12] }

// direct is an archive on a web server, named by the operator.
type direct struct {
	client
	target *target.Target
	sum    string
}

func newDirect(t *target.Target, address, sum string, l limits) (*direct, error) {
	own := *t // nothing that its own source may do goes for this one, but the way there is the same
	own.Source.InsecureSkipTLS, own.Source.CAFile, own.Trust.AllowUnauthenticated = false, "", false
	c, err := newClient(&own, address, l)
	return &direct{c, t, sum}, err
}

// manifest asks for the archive's size, by the request that will bring it: not
// every server answers a HEAD.
func (d *direct) manifest(ctx context.Context) ([]byte, string, error) {
	ctx, cancel := d.brief(ctx)
	defer cancel()
	resp, err := d.ask(ctx, http.MethodGet, d.url, nil, d.safeHop)
	if err != nil {
		return nil, "", err
	}
	resp.Body.Close()
	if err = whole(resp); err == nil && resp.ContentLength < 0 {
		err = errors.New("the server does not tell its size")
	}
	if err != nil {
		return nil, "", failed(ctx, d.url, err)
	}
	file := path.Base(d.url.Path)
	if !manifest.ValidFile(file) {
		file = bareName
	}
	m, err := bare(d.target, file, resp.ContentLength, d.sum)
	if err != nil {
		return nil, "", err
	}
	raw, err := m.Marshal()
	return raw, show(d.url), err
}

func (d *direct) archive(ctx context.Context, p manifest.Platform, have piece) (*body, error) {
	return d.stream(ctx, d.url, nil, p.Size, have, d.safeHop)
}

func (d *direct) learn(r *release, sum string) error {
	if r.manifest.Version == unknownVersion {
		r.manifest.Version = digestVersion(sum)
	}
	return r.complete(sum)
}

// source is where the release of this attempt comes from: where the operator says,
// if they do, or else the target's own source.
func (f *fetcher) source(t *target.Target, cache string) (source, error) {
	switch {
	case f.order.Import:
		return &disk{path: f.tree.Import(f.name), rootOnly: f.rootOnly}, nil
	case f.order.URL != "":
		return newDirect(t, f.order.URL, f.order.SHA256, f.limits)
	}
	return newSource(t, cache, f.limits, f.rootOnly)
}

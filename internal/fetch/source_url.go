package fetch

import (
	"context"
	"errors"
	"net/http"
	"path"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/target"
)

// direct is an archive on a web server that the operator named.
type direct struct {
	client
	target *target.Target
	sum    string
}

func newDirect(t *target.Target, address, sum string, l limits) (*direct, error) {
	own := *t // the exceptions of the target's own source do not apply; its proxy does
	own.Source.InsecureSkipTLS, own.Source.CAFile, own.Trust.AllowUnauthenticated = false, "", false
	c, err := newClient(&own, address, l)
	return &direct{c, t, sum}, err
}

// manifest requests the archive for its size. It uses GET, because some servers do not
// answer HEAD.
func (d *direct) manifest(ctx context.Context) ([]byte, string, error) {
	ctx, cancel := d.brief(ctx)
	defer cancel()
	resp, err := d.ask(ctx, http.MethodGet, d.url, nil, d.safeHop)
	if err != nil {
		return nil, "", err
	}
	resp.Body.Close()
	if err = whole(resp); err == nil && resp.ContentLength < 0 {
		err = errors.New("the server does not send its size")
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

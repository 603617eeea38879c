package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/target"
)

// direct is an archive on a web server that the operator named.
type direct struct {
	download.Client
	target  *target.Target
	sum     string
	version string
}

// NewDirect returns the archive at an address that the operator named, with its sha256 and
// version, or "" if not known.
func NewDirect(t *target.Target, address, sum, version string, l download.Limits) (Source, error) {
	own := *t // the exceptions of the target's own source do not apply; its proxy does
	own.Source.InsecureSkipTLS, own.Source.CAFile, own.Trust.AllowUnauthenticated = false, "", false
	c, err := download.NewClient(&own, address, l)
	c.Named = true
	return &direct{c, t, sum, version}, err
}

// Manifest requests the archive for its size. It uses GET, because some servers do not
// answer HEAD.
func (d *direct) Manifest(ctx context.Context) ([]byte, string, error) {
	ctx, cancel := d.Limits.Brief(ctx)
	defer cancel()
	resp, err := d.Ask(ctx, http.MethodGet, d.URL, nil, d.SafeHop)
	if err != nil {
		return nil, "", err
	}
	resp.Body.Close()
	if err = download.Whole(resp); err == nil && resp.ContentLength < 0 {
		err = errors.New("the server does not send its size")
	}
	if err != nil && resp.StatusCode == http.StatusNotFound {
		err = fmt.Errorf("%w (hint: is the address right, and public?)", err)
	}
	if err != nil {
		return nil, "", d.Unusable(ctx, resp, err)
	}
	file := path.Base(d.URL.Path)
	if !manifest.ValidFile(file) {
		file = bareName
	}
	raw, err := bare(d.target, file, resp.ContentLength, d.sum, d.version)
	return raw, download.Show(d.URL), err
}

func (d *direct) Archive(ctx context.Context, p manifest.Platform, have download.Piece) (*download.Body, error) {
	return d.Stream(ctx, d.URL, nil, p.Size, have, d.SafeHop)
}

func (d *direct) Learn(r *Release, sum string) error {
	if r.Manifest.Version == unknownVersion {
		r.Manifest.Version = digestVersion(sum)
	}
	return r.complete(sum)
}

package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/target"
)

// web is a manifest on a web server, and the archives that it names.
type web struct {
	client
	base  *url.URL // the manifest's address after redirects
	cache cache
	// signed says that signatures authenticate the manifest. It may then direct this
	// machine's requests to any server, and so may an attacker on the path.
	signed bool
}

func newWeb(t *target.Target, dir string, l limits) (*web, error) {
	c, err := newClient(t, t.Source.URL, l)
	c.anybody = t.Trust.AnyTransport()
	return &web{client: c, signed: t.Trust.Mode == target.TrustTUF, cache: cache{
		dir: dir, url: t.Source.URL, insecure: t.Source.InsecureSkipTLS,
		usable: func(b []byte) bool { _, err := manifest.Parse(b); return err == nil },
	}}, err
}

// manifest downloads the manifest, or returns the cached one if the server says that it
// has not changed.
//
// A redirect may lead to another host: each server authenticates the next one, and none is
// less authenticated than the first. The last address is the base of the archive's
// address, because manifest and archive are published side by side.
func (w *web) manifest(ctx context.Context) ([]byte, string, error) {
	ctx, cancel := w.brief(ctx)
	defer cancel()
	known := w.cache.load()
	resp, err := w.ask(ctx, http.MethodGet, w.url, unless(known.ETag), w.safeHop)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	w.base = resp.Request.URL
	name := show(w.base)
	if resp.StatusCode == http.StatusNotModified && known.ETag != "" {
		return known.Body, name, nil
	}
	if err := whole(resp); err != nil {
		return nil, "", failed(ctx, w.base, err)
	}
	raw, err := readManifest(resp.Body)
	if err != nil {
		return nil, "", failed(ctx, w.base, err)
	}
	return raw, name, w.cache.store(raw, resp.Header.Get("ETag"))
}

func (w *web) name() string { return show(w.url) }

// beside reads a file of a signed repository. The address of the last one is the base of
// the archive's address, because all of them are published side by side.
func (w *web) beside(ctx context.Context, file string, most int64) ([]byte, error) {
	u, err := w.url.Parse(file)
	if err != nil {
		return nil, notDownloaded("cannot download %s beside %s: its address is not valid", file, show(w.url))
	}
	resp, err := w.ask(ctx, http.MethodGet, u, nil, w.safeHop)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	w.base = resp.Request.URL
	var body []byte
	if err = whole(resp); err == nil {
		body, err = readSmall(resp.Body, most)
	} else if _, busy := errors.AsType[*rateLimit](err); !busy && slices.Contains(absent, resp.StatusCode) {
		err = fmt.Errorf("%w (%w)", err, fs.ErrNotExist)
	}
	if err != nil {
		return nil, failed(ctx, w.base, err)
	}
	return body, nil
}

// absent are the statuses that mean that a file does not exist. Stores whose lists are not
// public answer "forbidden".
var absent = []int{http.StatusNotFound, http.StatusGone, http.StatusForbidden}

// archive requests an archive. Without signatures, the archive and all redirects must be
// on the manifest's origin: the author of an unsigned manifest must not direct this
// machine's requests elsewhere.
func (w *web) archive(ctx context.Context, p manifest.Platform, have piece) (*body, error) {
	u, err := w.base.Parse(p.File)
	if err != nil {
		return nil, refused("cannot use %s: the archive's address is not valid", show(w.base))
	}
	if w.signed {
		return w.stream(ctx, u, nil, p.Size, have, w.safeHop)
	}
	if err := w.sameOrigin(u); err != nil {
		return nil, failed(ctx, u, err)
	}
	return w.stream(ctx, u, nil, p.Size, have, w.sameOrigin)
}

func (w *web) sameOrigin(to *url.URL) error {
	if origin(to) != origin(w.base) {
		return refused("it is not on the manifest's origin %s", origin(w.base))
	}
	return nil
}

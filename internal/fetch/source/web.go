package source

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// web is a manifest on a web server, and the archives that it names.
type web struct {
	download.Client
	base  *url.URL // the manifest's address after redirects
	cache cache
	// signed says that signatures authenticate the manifest. It may then direct this
	// machine's requests to any server, and so may an attacker on the path.
	signed bool
}

func newWeb(t *target.Target, dir string, l download.Limits) (*web, error) {
	c, err := download.NewClient(t, t.Source.URL, l)
	c.Anybody = t.Trust.AnyTransport()
	c.Absent = "the manifest says that it is there: put it there, as machinemon-release publish does, or correct the manifest"
	return &web{Client: c, signed: t.Trust.Mode == target.TrustTUF, cache: cache{
		dir: dir, url: t.Source.URL, insecure: t.Source.InsecureSkipTLS,
		usable: func(b []byte) bool { _, err := manifest.Parse(b); return err == nil },
	}}, err
}

// Manifest downloads the manifest, or returns the cached one if the server says that it
// has not changed.
//
// A redirect may lead to another host: each server authenticates the next one, and none is
// less authenticated than the first. The last address is the base of the archive's
// address, because manifest and archive are published side by side.
func (w *web) Manifest(ctx context.Context) ([]byte, string, error) {
	ctx, cancel := w.Limits.Brief(ctx)
	defer cancel()
	known := w.cache.load()
	resp, err := w.Ask(ctx, http.MethodGet, w.URL, unless(known.ETag), w.SafeHop)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	w.base = resp.Request.URL
	name := download.Show(w.base)
	if resp.StatusCode == http.StatusNotModified && known.ETag != "" {
		return known.Body, name, nil
	}
	if err := whole(resp); err != nil {
		if resp.StatusCode == http.StatusNotFound {
			err = fmt.Errorf("%w (hint: is source.url the address of a manifest?)", err)
		}
		return nil, "", w.Unusable(ctx, resp, err)
	}
	raw, err := w.read(resp, manifest.MaxSize)
	if !w.Inside(resp) {
		err = cmp.Or(noPage(raw), noArchive(raw), err)
	}
	if err != nil {
		return nil, "", w.Unusable(ctx, resp, err)
	}
	return raw, name, w.cache.store(raw, resp.Header.Get("ETag"))
}

func (w *web) Name() string { return download.Show(w.URL) }

// Beside reads a file of a signed repository. The address of the last one is the base of
// the archive's address, because all of them are published side by side.
func (w *web) Beside(ctx context.Context, file string, most int64) ([]byte, error) {
	u, err := w.URL.Parse(file)
	if err != nil {
		return nil, state.NotDownloaded("cannot download %s beside %s: its address is not valid", file, download.Show(w.URL))
	}
	resp, err := w.Ask(ctx, http.MethodGet, u, nil, w.SafeHop)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	w.base = resp.Request.URL
	var body []byte
	if err = whole(resp); err == nil {
		body, err = w.read(resp, most)
		if err == nil && strings.HasSuffix(file, ".root.json") { // the first file that is requested
			err = noPage(body)
		}
	} else if _, busy := errors.AsType[*download.RateLimit](err); !busy && slices.Contains(absent, resp.StatusCode) {
		err = fmt.Errorf("%w (%w)", err, fs.ErrNotExist)
	}
	if err != nil {
		return nil, w.Unusable(ctx, resp, err)
	}
	return body, nil
}

// noGate is the hint for what a MachineMon server answers that is asked directly: 400 to
// names that are not an archive's, and its dashboard to paths that it does not know.
const noGate = "(hint: source.url must be the address of a manifest, a JSON file, and not of a directory or page; a MachineMon server has none, unless machinemon-checkin-gate is in front of it)"

// whole is [download.Whole] for a manifest or a file of a signed repository.
func whole(resp *http.Response) error {
	err := download.Whole(resp)
	if err != nil && resp.StatusCode == http.StatusBadRequest {
		return fmt.Errorf("%w %s", err, noGate)
	}
	return err
}

// read reads a manifest or a file of a signed repository. From a server inside, to which
// a redirect led, it returns nothing else: errors about the content of other pages would
// show what is there.
func (w *web) read(resp *http.Response, most int64) ([]byte, error) {
	b, err := readSmall(resp.Body, most)
	if err == nil && w.Inside(resp) && !json.Valid(b) {
		err = state.Refused("it is not JSON")
	}
	return b, err
}

// noPage returns an error if a file is a web page instead of JSON.
func noPage(b []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("<")) {
		return state.Refused("it is not JSON, but a web page %s", noGate)
	}
	return nil
}

// archives are what the files begin with that are taken for a manifest by mistake: gzip, zip,
// zstd, xz, bzip2 and programs.
var archives = []string{"\x1f\x8b", "PK\x03\x04", "\x28\xb5\x2f\xfd", "\xfd7zXZ\x00", "BZh", "\x7fELF"}

// noArchive returns an error if a file is an archive instead of JSON.
func noArchive(b []byte) error {
	if slices.ContainsFunc(archives, func(begin string) bool { return bytes.HasPrefix(b, []byte(begin)) }) {
		return state.Refused("it is not JSON, but an archive (hint: source.url must be the address of a manifest that names the archive; machinemon-release makes one, " +
			"and machinemon-update import installs an archive without one)")
	}
	return nil
}

// absent are the statuses that mean that a file does not exist. Stores whose lists are not
// public answer "forbidden".
var absent = []int{http.StatusNotFound, http.StatusGone, http.StatusForbidden}

// Archive requests an archive. Without signatures, the archive and all redirects must be
// on the manifest's origin: the author of an unsigned manifest must not direct this
// machine's requests elsewhere.
func (w *web) Archive(ctx context.Context, p manifest.Platform, have download.Piece) (*download.Body, error) {
	u, err := w.base.Parse(p.File)
	if err != nil {
		return nil, state.Refused("cannot use %s: the archive's address is not valid", download.Show(w.base))
	}
	if w.signed {
		return w.Stream(ctx, u, nil, p.Size, have, w.SafeHop)
	}
	if err := w.sameOrigin(u); err != nil {
		return nil, download.Failed(ctx, u, err)
	}
	return w.Stream(ctx, u, nil, p.Size, have, w.sameOrigin)
}

func (w *web) sameOrigin(to *url.URL) error {
	if download.Origin(to) != download.Origin(w.base) {
		return state.Refused("it is not on the manifest's origin %s", download.Origin(w.base))
	}
	return nil
}

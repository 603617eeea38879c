package source

import (
	"context"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// besideSums are the ends of the names of checksum files that may be beside an archive that
// source.asset has by its address.
var besideSums = []string{".sha256", ".sha256sum"}

// away reports whether the archive is elsewhere than among the files of the release. Its
// size and digest are then what its own server says, whatever the release has.
func (g *github) away() bool { return g.assetURL() != "" }

func (g *github) assetURL() string { return g.source.AssetURL(manifest.Host(), g.version()) }
func (g *github) sumsURL() string  { return g.source.ChecksumsURL(manifest.Host(), g.version()) }

// elsewhere returns the address of the file with a name if source.asset or source.checksums
// is the address of it, or of the file that it signs or has the digest of; or else nil.
func (g *github) elsewhere(name string) (*url.URL, error) {
	beside := signatureEnds
	if !g.namedSums() {
		beside = append(slices.Clone(besideSums), beside...)
	}
	for _, place := range []struct {
		address string
		ends    []string
	}{{g.sumsURL(), signatureEnds}, {g.assetURL(), beside}} {
		address, ends := place.address, place.ends
		if address == "" {
			continue
		}
		end, ok := strings.CutPrefix(name, path.Base(address))
		if signed, is := cutSignature(end); is && slices.Contains(ends, signed) {
			end = ""
		}
		if !ok || end != "" && !slices.Contains(ends, end) {
			continue
		}
		u, err := url.Parse(address)
		if err != nil {
			return nil, state.Fail(state.ResultMisconfigured, "cannot use %s: the address of %s is not valid", g.name(), name)
		}
		u.Path = path.Join(path.Dir(u.Path), name)
		return u, nil
	}
	return nil, nil
}

// cutSignature cuts the end of a signature's name.
func cutSignature(name string) (string, bool) {
	for _, end := range signatureEnds {
		if of, ok := strings.CutSuffix(name, end); ok {
			return of, true
		}
	}
	return name, false
}

// smallElsewhere reads a file from its address; nil if there is none.
func (g *github) smallElsewhere(ctx context.Context, u *url.URL) ([]byte, error) {
	resp, err := g.Ask(ctx, http.MethodGet, u, nil, g.SafeHop)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if slices.Contains(absent, resp.StatusCode) {
		return nil, nil
	}
	return g.content(ctx, resp, nil)
}

// signedNames returns the names that signed files and signatures of a release may have, if
// some are elsewhere. Whether those exist is only known when they are read.
func (g *github) signedNames(known []string, archive string) []string {
	var more []string
	if g.away() {
		more = append(more, archive)
		for _, end := range besideSums {
			if !g.namedSums() {
				more = append(more, archive+end)
			}
		}
	}
	if u := g.sumsURL(); u != "" {
		more = append(more, path.Base(u))
	}
	var names []string
	if !g.source.AllElsewhere() {
		names = slices.DeleteFunc(slices.Clone(known), func(name string) bool {
			return slices.ContainsFunc(more, func(m string) bool { return strings.HasPrefix(name, m) })
		})
	}
	for _, name := range more {
		names = append(names, name)
		for _, end := range signatureEnds {
			names = append(names, name+end)
		}
	}
	return names
}

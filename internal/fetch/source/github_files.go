package source

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// place returns the address of a file of the release and the header to request it with.
// Without a token the file is at the release's web page. With a token it is at the API,
// because only the API accepts tokens.
//
// A file that source.asset or source.checksums has by its address is there, and its server
// gets no token.
func (g *github) place(name string) (*url.URL, http.Header, error) {
	if u, err := g.elsewhere(name); u != nil || err != nil {
		return u, nil, err
	}
	if g.forge != nil {
		return g.placeOnForge(name)
	}
	if g.token == "" || g.offline {
		return g.site.JoinPath(g.source.Repo, "releases/download", url.PathEscape(g.release.Tag), name), nil, nil
	}
	a := g.release.asset(name)
	if a == nil {
		return nil, nil, state.Refused("cannot use %s: it has no file %.100s", g.name(), name)
	}
	u, err := url.Parse(a.URL)
	if err != nil || u.User != nil || download.Origin(u) != download.Origin(g.URL) {
		return nil, nil, state.Refused("cannot use %s: the API has %+.100q elsewhere than on %s", g.name(), name, download.Origin(g.URL))
	}
	header := http.Header{}
	header.Set("Accept", "application/octet-stream")
	g.authorize(header)
	return u, header, nil
}

func (g *github) authorize(header http.Header) {
	if g.token != "" && g.forge != nil {
		g.forge.token(header, g.token)
	} else if g.token != "" {
		header.Set("Authorization", "Bearer "+g.token)
	}
}

// open requests a file of the release. GitHub redirects to its storage on other hosts.
func (g *github) open(ctx context.Context, method, name string) (*http.Response, error) {
	u, header, err := g.place(name)
	if err != nil {
		return nil, err
	}
	return g.Ask(ctx, method, u, header, g.SafeHop)
}

// small reads a file of the release other than the archive; nil if there is none.
func (g *github) small(ctx context.Context, name string) ([]byte, error) {
	if u, err := g.elsewhere(name); err != nil {
		return nil, err
	} else if u != nil {
		return g.smallElsewhere(ctx, u)
	}
	a := g.release.asset(name)
	if a == nil && g.release.Assets != nil {
		return nil, g.notYet(func(file string) bool { return file == name })
	}
	resp, err := g.open(ctx, http.MethodGet, name)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if a == nil && resp.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	return g.content(ctx, resp, a)
}

// content reads a small file from an answer; a is what the API says of it, nil if nothing.
func (g *github) content(ctx context.Context, resp *http.Response, a *asset) (b []byte, err error) {
	if err = download.Whole(resp); err == nil {
		b, err = readSmall(resp.Body, manifest.MaxSize)
	}
	if err == nil && a != nil && a.sha256() != "" && a.sha256() != manifest.Digest(b) {
		err = state.Refused("its sha256 is %s, the API says %.64s", manifest.Digest(b), a.sha256())
	}
	if err != nil {
		return nil, g.Unusable(ctx, resp, err)
	}
	return b, nil
}

// size requests the size of a file that the API does not describe.
func (g *github) size(ctx context.Context, name string) (int64, error) {
	method := http.MethodHead
	if g.forge != nil || g.away() {
		method = http.MethodGet // addresses that a store signs are valid for one method, and not every server answers HEAD
	}
	resp, err := g.open(ctx, method, name)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	if g.away() && slices.Contains(absent, resp.StatusCode) && !g.Inside(resp) {
		return 0, g.notThere(g.assetURL(), "asset")
	}
	if err = download.Whole(resp); err == nil && resp.ContentLength < 0 {
		err = errors.New("the server does not send its size")
	}
	if err != nil {
		return 0, g.Unusable(ctx, resp, err)
	}
	return resp.ContentLength, nil
}

func (g *github) Archive(ctx context.Context, p manifest.Platform, have download.Piece) (*download.Body, error) {
	if strings.Contains(p.File, "/") {
		return nil, state.Refused("cannot use %s: its manifest names an archive that is not among its files", g.name())
	}
	u, header, err := g.place(p.File)
	if err != nil {
		return nil, err
	}
	return g.Stream(ctx, u, header, p.Size, have, g.SafeHop)
}

// validToken matches a token as GitHub makes them: one word.
var validToken = regexp.MustCompile(`^[!-~]+$`)

// readToken reads the token that systemd, as root, passed on from source.token_file.
func readToken(name string) (string, error) {
	token, err := download.Credential(name, "the token of source.token_file", "token")
	if err == nil && (len(token) > 1000 || !validToken.MatchString(token)) {
		err = state.Fail(state.ResultMisconfigured, "cannot fetch %s: source.token_file has no token (hint: one line without spaces, in a file that exists)", name)
	}
	return token, err
}

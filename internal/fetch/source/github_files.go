package source

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// sumFiles are the files of a release that may contain the digests of the others.
var sumFiles = []string{"checksums.txt", "SHA256SUMS"}

// place returns the address of a file of the release and the header to request it with.
// Without a token the file is at the release's web page. With a token it is at the API,
// because only the API accepts tokens.
func (g *github) place(name string) (*url.URL, http.Header, error) {
	if g.token == "" || g.offline {
		return g.site.JoinPath(g.source.Repo, "releases/download", g.release.Tag, name), nil, nil
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
	if g.token != "" {
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
	a := g.release.asset(name)
	if a == nil && g.release.Assets != nil {
		return nil, nil
	}
	resp, err := g.open(ctx, http.MethodGet, name)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if a == nil && resp.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	var b []byte
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

// sums returns the digests in the release's [sumFiles], by file name. The map is not nil.
func (g *github) sums(ctx context.Context) (map[string]string, error) {
	sums := map[string]string{}
	for _, name := range sumFiles {
		b, err := g.small(ctx, name)
		if err != nil {
			return nil, err
		}
		if err := parseSums(b, sums); err != nil {
			return nil, state.Refused("cannot use %s of %s: %w", name, g.name(), err)
		}
	}
	return sums, nil
}

// size requests the size of a file that the API does not describe.
func (g *github) size(ctx context.Context, name string) (int64, error) {
	resp, err := g.open(ctx, http.MethodHead, name)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
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
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", state.Fail(state.ResultMisconfigured, "cannot fetch %s: the token of source.token_file was not handed over "+
			"(hint: root's check has it, after systemctl daemon-reload)", name)
	}
	f, err := os.Open(filepath.Join(dir, "token"))
	if err != nil {
		return "", state.Fail(state.ResultMisconfigured, "cannot fetch %s: the token of source.token_file was not handed over: %w "+
			"(hint: systemctl daemon-reload)", name, durable.Cause(err))
	}
	defer f.Close()
	b, err := readSmall(f, 2048)
	if err != nil {
		return "", state.Fail(state.ResultMisconfigured, "cannot fetch %s: the token of source.token_file: %w", name, durable.Cause(err))
	}
	token := strings.TrimSuffix(string(b), "\n")
	if len(token) > 1000 || !validToken.MatchString(token) {
		return "", state.Fail(state.ResultMisconfigured, "cannot fetch %s: source.token_file has no token (hint: one line without spaces, in a file that exists)", name)
	}
	return token, nil
}

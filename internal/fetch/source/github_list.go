package source

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/version"
)

const (
	perPage  = "100"    // GitHub's own limit
	maxPages = 10       // an older release needs source.tag
	maxList  = 32 << 20 // bytes of a page: a hundred releases with a hundred files each need half of that
)

// An unfit error says that there is no release as the target needs it. If the API refuses
// requests, that may be different when it answers again.
type unfit struct{ problem, hint string }

func (u *unfit) Error() string { return u.problem + " (hint: " + u.hint + ")" }

// ranged reports whether the release is looked up in the list of releases.
func (g *github) ranged() bool { return g.source.Tag == "" && g.source.Versions.Bounds() }

// cacheKey returns the address that the cached answer is for. Of a list, the cache has
// only the release that was in the range.
func (g *github) cacheKey() string {
	if !g.ranged() {
		return g.URL.String()
	}
	return g.URL.String() + "#" + url.QueryEscape(g.source.Versions.String())
}

// better reports whether tag is in source.versions and higher than the other tag.
func (g *github) better(tag, than string) bool {
	return g.source.Versions.Has(tag) && version.Lower(than, tag)
}

// listed is a release in the list.
type listed struct {
	published
	Draft      bool `json:"draft"` // visible to users who may write to the repository
	Prerelease bool `json:"prerelease"`
}

// highest returns the release with the highest version in source.versions. The list begins
// with the newest release, so the first page with a matching one has the newest of that
// version line. An old line may begin behind a hundred newer releases.
func (g *github) highest(ctx context.Context, resp *http.Response) (*published, error) {
	seen := 0
	for page := 1; ; page++ {
		all, err := readPage(resp)
		if err != nil {
			return nil, err
		}
		seen += len(all)
		if best := g.best(all); best != nil {
			return best.clean()
		}
		if page == maxPages || !strings.Contains(resp.Header.Get("Link"), `rel="next"`) {
			break
		}
		next := *g.URL
		next.RawQuery += "&page=" + strconv.Itoa(page+1)
		if resp, err = g.askFor(ctx, &next, ""); err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if err := download.Whole(resp); err != nil {
			return nil, err
		}
	}
	if seen == 0 {
		return nil, state.NotDownloaded("it has no release (hint: is source.repo right?)")
	}
	return nil, &state.Failure{Result: state.ResultNotAttempted, Err: &unfit{
		fmt.Sprintf("none of the %d newest releases of %s is in source.versions %q", seen, g.source.Repo, g.source.Versions),
		"source.tag names one that is older"}}
}

func readPage(resp *http.Response) (all []listed, err error) {
	body, err := readSmall(resp.Body, maxList)
	if err != nil {
		return nil, err
	}
	// The decoder's error is not used, because it quotes the input.
	if json.Unmarshal(body, &all) != nil {
		return nil, state.Refused("it is not a list of releases as GitHub's API describes one")
	}
	return all, nil
}

// best returns the highest allowed release of a page, or nil if there is none. A tag that
// is not a version belongs to another product.
func (g *github) best(all []listed) (best *published) {
	for i := range all {
		l := &all[i]
		if l.Draft || l.Prerelease || !manifest.ValidName(l.Tag) || !g.source.Versions.Has(l.Tag) {
			continue
		}
		if best == nil || g.better(l.Tag, best.Tag) {
			best = &l.published
		}
	}
	return best
}

package source

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/state"
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

// listed is a release in the list.
type listed struct {
	published
	Draft      bool `json:"draft"` // visible to users who may write to the repository
	Prerelease bool `json:"prerelease"`
}

// highest returns the release with the highest version that can be taken. The list begins
// with the newest release, so the first page with a matching one has the newest of that
// version line. An old line may begin behind a hundred newer releases.
func (g *github) highest(ctx context.Context, resp *http.Response) (*published, error) {
	seen := 0
	for page := 1; ; page++ {
		all, err := g.readPage(resp)
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
	if !g.ranged() {
		return nil, g.none(seen)
	}
	return nil, &state.Failure{Result: state.ResultNotAttempted, Err: &unfit{
		fmt.Sprintf("none of the %d newest releases of %s is %s", seen, g.source.Repo, g.wanted()),
		"source.tag names one that is older"}}
}

func (g *github) readPage(resp *http.Response) (all []listed, err error) {
	body, err := readSmall(resp.Body, maxList)
	if err != nil {
		return nil, err
	}
	if g.forge != nil {
		return g.forge.parseList(body)
	}
	// The decoder's error is not used, because it quotes the input.
	if json.Unmarshal(body, &all) != nil {
		return nil, state.Refused("it is not a list of releases as GitHub's API describes one")
	}
	return all, nil
}

// best returns the highest allowed release of a page, or nil if there is none; without a
// range it is the first. A tag that is not a version belongs to another product. Of
// versions without an order, the newest release is the highest.
func (g *github) best(all []listed) (best *published) {
	for i := range all {
		l := &all[i]
		if l.Draft || l.Prerelease && !g.source.Prereleases || !g.takes(l.Tag) {
			continue
		}
		if best == nil || g.ranged() && g.better(l.Tag, best.Tag) {
			best = &l.published
		}
	}
	return best
}

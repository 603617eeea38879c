package source

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
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

	maxListed = 1000 // releases on a page; perPage are asked for
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
		best, n, err := g.bestOf(resp.Body)
		if err != nil {
			return nil, err
		}
		if seen += n; best != nil {
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

// bestOf returns the highest allowed release of a page, or nil if there is none, and how
// many releases the page has.
func (g *github) bestOf(page io.Reader) (best *published, n int, err error) {
	product := "GitHub"
	if g.forge != nil {
		product = g.forge.product
	}
	err = eachIn(page, product, func(b []byte) (err error) {
		var l listed
		if g.forge != nil {
			l, err = g.forge.parse(b)
		} else if json.Unmarshal(b, &l) != nil {
			err = noList(product)
		}
		n++
		if err == nil && g.takesListed(&l) && (best == nil || g.ranged() && g.better(l.Tag, best.Tag)) {
			best = &l.published
		}
		return err
	})
	return best, n, err
}

// takesListed reports whether a release of the list can be taken. A tag that is not a
// version belongs to another product. Of versions without an order, the newest release is
// the highest; without a range it is the first.
func (g *github) takesListed(l *listed) bool {
	return !l.Draft && (!l.Prerelease || g.source.Prereleases) && g.takes(l.Tag)
}

func noList(product string) error {
	return state.Refused("it is not a list of releases as %s's API describes one", product)
}

// eachIn calls f for each release of a page of the list. One of them is in memory at a time.
func eachIn(page io.Reader, product string, f func([]byte) error) error {
	in := &portions{r: page, all: maxList, left: maxAnswer}
	d := json.NewDecoder(in)
	// The decoder's error is not used, because it quotes the input.
	wrong := func() error {
		if in.err != nil && in.err != io.EOF {
			return in.err
		}
		return noList(product)
	}
	begin, err := d.Token()
	if err != nil || begin != nil && begin != json.Delim('[') {
		return wrong()
	}
	for n := 0; begin != nil && d.More(); n++ {
		if n == maxListed {
			return state.Refused("it has more than %d releases on one page", maxListed)
		}
		var one json.RawMessage
		if d.Decode(&one) != nil {
			return wrong()
		}
		if err := f(one); err != nil {
			return err
		}
		in.left = maxAnswer
	}
	if begin != nil {
		if _, err := d.Token(); err != nil {
			return wrong()
		}
	}
	if _, err := d.Token(); err != io.EOF {
		return wrong()
	}
	return nil
}

// portions reads a page of at most all bytes, of which left may come before left is set
// again.
type portions struct {
	r         io.Reader
	all, left int64
	err       error // of the last Read
}

func (p *portions) Read(b []byte) (n int, err error) {
	n, p.err = p.r.Read(b)
	p.all -= int64(n)
	p.left -= int64(n)
	switch {
	case p.all < 0:
		p.err = state.Refused("it is larger than %d bytes", maxList)
	case p.left < 0:
		p.err = state.Refused("it has a release that is larger than %d bytes", maxAnswer)
	}
	return n, p.err
}

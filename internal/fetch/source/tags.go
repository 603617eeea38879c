package source

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/version"
)

// version returns the version of the release, which was checked when it was chosen.
func (g *github) version() string {
	v, _ := g.source.VersionOf(g.release.Tag)
	return v
}

// checkTag returns an error if a tag is not one of this program's versions.
func (g *github) checkTag(tag string) error {
	_, ok := g.source.VersionOf(tag)
	switch {
	case ok:
		return nil
	case g.source.TagPrefix != "":
		return state.Refused("its tag %+.80q is not source.tag_prefix %q and a version", tag, g.source.TagPrefix)
	}
	return state.Refused("its tag %+.80q is no version, 1 to 64 of A-Z a-z 0-9 . + _ ~ -, the first a letter or digit (hint: set source.tag_prefix to what stands before the version)", tag)
}

// ranged reports whether the release is looked up in the list of releases: the latest one
// may be another program's, and is never a prerelease.
func (g *github) ranged() bool {
	s := g.source
	return s.Tag == "" && (s.Versions.Bounds() || s.TagPrefix != "" || s.Prereleases)
}

// cacheKey returns the address that the cached answer is for. Of a list, the cache has
// only the release that was chosen.
func (g *github) cacheKey() string {
	if !g.ranged() {
		return g.URL.String()
	}
	key := g.URL.String() + "#" + url.QueryEscape(g.source.Versions.String())
	if g.source.TagPrefix != "" {
		key += "&" + url.QueryEscape(g.source.TagPrefix)
	}
	if g.source.Prereleases {
		key += "&prereleases"
	}
	return key
}

// takes reports whether a tag is one of this program's versions, and in source.versions.
func (g *github) takes(tag string) bool {
	v, ok := g.source.VersionOf(tag)
	return ok && g.source.Versions.Has(v)
}

// better reports whether the release with a tag can be taken and has a higher version than
// the one with the other tag.
func (g *github) better(tag, than string) bool {
	v, _ := g.source.VersionOf(tag)
	old, _ := g.source.VersionOf(than)
	return g.takes(tag) && version.Lower(old, v)
}

// wanted says what the tag of a release must be, behind "is".
func (g *github) wanted() string {
	var all []string
	if g.source.TagPrefix != "" {
		all = append(all, fmt.Sprintf("tagged %s and a version", g.source.TagPrefix))
	}
	if g.source.Versions.Bounds() {
		all = append(all, fmt.Sprintf("in source.versions %q", g.source.Versions))
	}
	if all == nil {
		return "tagged as a version"
	}
	return strings.Join(all, " and ")
}

// Warning warns of a repository that has another name now, "" if it has not. GitHub leads
// from the old name to the new one until somebody takes the old one.
func (g *github) Warning() string {
	if g.release == nil {
		return ""
	}
	u, err := url.Parse(g.release.Page)
	if err != nil {
		return ""
	}
	before, _, ok := strings.Cut(u.Path, "/releases/")
	parts := strings.Split(before, "/")
	if !ok || len(parts) < 3 {
		return ""
	}
	now := strings.Join(parts[len(parts)-2:], "/")
	if strings.EqualFold(now, g.source.Repo) {
		return ""
	}
	return fmt.Sprintf("%s has moved to %+.150q (hint: set source.repo, before another publisher takes the old name)", g.source.Repo, now)
}

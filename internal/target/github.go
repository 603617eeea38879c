package target

import (
	"net/url"
	"path"
	"regexp"
	"strings"
)

// Defaults of a source of type "github".
const (
	defaultAPI   = "https://api.github.com"
	defaultAsset = "*.tar.gz"
)

var (
	repository = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,38}/[A-Za-z0-9._-]{1,100}$`)
	// It stands in a unit file, where other characters would need quotes.
	plainPath = regexp.MustCompile(`^[A-Za-z0-9/._@+-]+$`)
)

// githubKeys belong to this type of source alone.
var githubKeys = []string{"source.repo", "source.asset", "source.tag", "source.api_url", "source.token_file"}

// AssetPattern is the glob of path.Match for the archive's name among the files
// of a release, for a platform as in [Install.Name].
func (s Source) AssetPattern(platform, version string) string {
	return Install{From: s.Asset}.Name(platform, version)
}

// VersionIn is the version in an archive's name, where Asset says which part of it
// is one, by {version} or {number}; "" where it does not, or the name is another.
func (s Source) VersionIn(file, platform string) string {
	before, after, ok := strings.Cut(s.AssetPattern(platform, "{version}"), "{version}")
	if !ok || strings.ContainsAny(before+after, "*?[{") {
		return ""
	}
	version, begins := strings.CutPrefix(file, before)
	version, ends := strings.CutSuffix(version, after)
	if !begins || !ends {
		return ""
	}
	return version
}

// github takes the keys of a repository. None makes it a source that is not
// configured yet.
func (v *validation) github() Source {
	k := &v.keys.Source
	if k.Repo == nil {
		return Source{}
	}
	s := Source{
		Type:      SourceGitHub,
		Repo:      *k.Repo,
		Asset:     valueOr(k.Asset, defaultAsset),
		Tag:       valueOr(k.Tag, ""),
		URL:       valueOr(k.APIURL, defaultAPI),
		TokenFile: valueOr(k.TokenFile, ""),
	}
	if _, name, _ := strings.Cut(s.Repo, "/"); !repository.MatchString(s.Repo) || name == "." || name == ".." {
		v.bad("source.repo")
	}
	if _, err := path.Match(s.Asset, ""); err != nil || !entryName(s.Asset) || strings.Contains(s.Asset, "/") {
		v.bad("source.asset")
	}
	if k.Tag != nil && !product.MatchString(s.Tag) { // a version is written as a product is
		v.bad("source.tag")
	}
	if k.TokenFile != nil {
		v.token(s.TokenFile)
	}
	u, err := url.Parse(s.URL)
	if err != nil || !webURL(s.URL) || strings.Contains(s.URL, "?") {
		v.bad("source.api_url")
		return s
	}
	if u.Scheme == "https" {
		return s
	}
	const plain = "checksum trust is refused over plain http"
	switch anybody := valueOr(v.keys.Trust.AllowUnauthenticated, false); {
	case !Loopback(u.Hostname()) && k.TokenFile != nil:
		v.problem("source.token_file", "must not be sent over plain http", "")
	case !Loopback(u.Hostname()) && !anybody:
		v.problem("source.api_url", plain, unauthenticatedHint)
	case !v.fromAdmin("source.api_url") && !anybody:
		v.problem("source.api_url", plain+"; a loopback server is trusted only when written in "+v.dirs.Admin, unauthenticatedHint)
	}
	return s
}

// token checks the file in which systemd finds what it hands to the fetcher.
// Those who may not look at it leave it to root, who begins every attempt.
func (v *validation) token(file string) {
	const path = "source.token_file"
	if !cleanPath(file) || !plainPath.MatchString(file) {
		v.bad(path)
		return
	}
	v.rootOnly(path, file)
}

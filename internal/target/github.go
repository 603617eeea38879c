package target

import (
	"net/url"
	"strings"
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
	if !v.written("source.repo") {
		return Source{}
	}
	s := Source{
		Type:      SourceGitHub,
		Repo:      v.text("source.repo"),
		Asset:     v.text("source.asset"),
		Tag:       v.text("source.tag"),
		TokenFile: v.text("source.token_file"),
		URL:       v.text("source.api_url"),
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return s // it was refused
	}
	if u.Scheme == "https" {
		return s
	}
	const plain = "checksum trust is refused over plain http"
	switch anybody := v.boolean("trust.allow_unauthenticated"); {
	case !Loopback(u.Hostname()) && s.TokenFile != "":
		v.problem("source.token_file", "must not be sent over plain http", "")
	case !Loopback(u.Hostname()) && !anybody:
		v.problem("source.api_url", plain, unauthenticatedHint)
	case !v.fromAdmin("source.api_url") && !anybody:
		v.problem("source.api_url", plain+"; a loopback server is trusted only when written in "+v.dirs.Admin, unauthenticatedHint)
	}
	return s
}

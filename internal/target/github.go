package target

import (
	"net/url"
	"strings"
)

// GitHubAPI is the address of the API of github.com.
const GitHubAPI = "https://api.github.com"

// githubKeys are the keys that only a source of type github, forgejo or gitlab may have.
var githubKeys = []string{"source.repo", "source.asset", "source.tag", "source.api_url", "source.token_file"}

// AssetPattern returns the glob of [path.Match] for the archive's name among the files of
// a release, with the placeholders filled in. Of an address it is the last part.
func (s Source) AssetPattern(platform, version string) string {
	return s.names.fill(lastPart(s.Asset), platform, version)
}

// VersionIn returns the version that an archive's name contains. It returns "" if Asset
// has neither {version} nor {number}, or has wildcards, or does not match file.
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

// github returns the source that the keys of [source] for GitHub, Forgejo or GitLab
// describe. Without source.repo the source is not configured yet.
func (v *validation) github(kind string) Source {
	if !v.written("source.repo") {
		return Source{}
	}
	s := Source{
		Type:      kind,
		Repo:      v.text("source.repo"),
		Asset:     v.text("source.asset"),
		Tag:       v.text("source.tag"),
		TokenFile: v.text("source.token_file"),
		URL:       v.api(kind),
	}
	if kind != SourceGitLab && strings.Count(s.Repo, "/") > 1 {
		v.problem("source.repo", `must be "OWNER/NAME"`, "only GitLab has groups within groups")
	}
	v.tags(&s)
	u, err := url.Parse(s.URL) // text has refused URLs that are not valid
	if err == nil && s.TokenFile != "" && u.Scheme != "https" && !Loopback(u.Hostname()) {
		v.problem("source.token_file", "must not be sent over plain http", "")
	}
	return s
}

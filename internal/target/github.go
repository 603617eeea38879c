package target

import (
	"net/url"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// githubKeys are the keys that only a source of type github may have.
var githubKeys = []string{"source.repo", "source.asset", "source.tag", "source.api_url", "source.token_file"}

// AssetPattern returns the glob of [path.Match] for the archive's name among the files of
// a release, with the placeholders filled in.
func (s Source) AssetPattern(platform, version string) string {
	return s.names.fill(s.Asset, platform, version)
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

// github returns the source that the keys of [source] for GitHub describe. Without
// source.repo the source is not configured yet.
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
	u, err := url.Parse(s.URL) // text has refused URLs that are not valid
	if err == nil && s.TokenFile != "" && u.Scheme != "https" && !Loopback(u.Hostname()) {
		v.problem("source.token_file", "must not be sent over plain http", "")
	}
	return s
}

// Exposed warns of a token that all users of the machine can read; "" if there is none. It
// is no error: the token is known by now, and an update may be what the machine needs.
func (t *Target) Exposed() string {
	file := t.Source.TokenFile
	if file == "" {
		return ""
	}
	if secret, err := durable.Secret(t.check.root + file); secret || err != nil {
		return "" // the fetcher reports that it has no token
	}
	return "every user can read the token in " + file + " (hint: chmod 0600 " + file + ", and replace the token)"
}

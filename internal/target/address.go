package target

import (
	"net/url"
	"path"
	"strings"
)

// fileAllowed says what source.asset and source.checksums may be.
const fileAllowed = `a plain name with * ? [ ], or "https://HOST/PATH/NAME" without these and without a query; ` + filledIn

// isAddress reports whether source.asset or source.checksums is the address of a file that
// is not among those of the release.
func isAddress(s string) bool { return strings.HasPrefix(s, "https://") }

// assetFile reports whether s is a name or glob of a file of a release, or the address of
// a file elsewhere. A tag, which the publisher chooses, must not choose the server.
func assetFile(s string) bool {
	if !isAddress(s) {
		return assetGlob(s)
	}
	u, err := url.Parse(s)
	return err == nil && webURL(s) && !strings.ContainsAny(s, `*?[]%\ `) && !strings.ContainsAny(u.Host, "{}") &&
		entryName(strings.TrimPrefix(u.Path, "/"))
}

// lastPart returns the name of the file that source.asset or source.checksums has.
func lastPart(s string) string {
	if isAddress(s) {
		return path.Base(s)
	}
	return s
}

// AssetURL returns the address of the archive; "" if it is a file of the release.
func (s Source) AssetURL(platform, version string) string {
	if !isAddress(s.Asset) {
		return ""
	}
	return s.names.fill(s.Asset, platform, version)
}

// ChecksumsURL returns the address of the checksum file; "" if it is a file of the release,
// or beside the archive.
func (s Source) ChecksumsURL(platform, version string) string {
	if !isAddress(s.Checksums) {
		return ""
	}
	return s.names.fill(s.Checksums, platform, version)
}

// AllElsewhere reports whether no file of the release itself is used: its tag names the
// version, and the operator wrote where archive and digests are.
func (s Source) AllElsewhere() bool {
	return isAddress(s.Asset) && (s.Checksums == "" || isAddress(s.Checksums))
}

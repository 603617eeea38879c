package target

import (
	"path"
	"strings"

	"github.com/machinemon/machinemon-update/internal/pattern"
)

// tagKeys are further keys that only a source with releases by tag may have.
var tagKeys = []string{"source.tag_prefix", "source.prereleases", "source.checksums"}

// checksumsAuto is the value of source.checksums for a file with a usual name.
const checksumsAuto = "auto"

const tagAllowed = "1 to 128 of A-Z a-z 0-9 . + _ ~ - / @, the first a letter or digit"

var (
	tagForm = pattern.New(`^[A-Za-z0-9][A-Za-z0-9.+_~/@-]*$`)
	// numbered is how a version begins behind source.tag_prefix. Without this rule, app-
	// would be the prefix of app-cli-1.2.0, too.
	numbered = pattern.New(`^[vV]?[0-9]`)
)

// tagName reports whether s can be the name of a tag, or the beginning of one, and part of
// an address.
func tagName(s string) bool {
	whole := strings.TrimSuffix(s, "/") // a prefix may end with it
	return tagForm.MatchString(s) && len(s) <= 128 && path.Clean(whole) == whole
}

// VersionOf returns the version of the release with this tag. ok is false if the tag is
// not one of this program's, or names no version.
func (s Source) VersionOf(tag string) (version string, ok bool) {
	version, ok = strings.CutPrefix(tag, s.TagPrefix)
	return version, ok && word.MatchString(version) && (s.TagPrefix == "" || numbered.MatchString(version))
}

// ChecksumsPattern returns the glob for the name of the checksum file, with the
// placeholders filled in. It is "" if the name is a usual one. Of an address it is the
// last part.
func (s Source) ChecksumsPattern(platform, version string) string {
	return s.names.fill(lastPart(s.Checksums), platform, version)
}

// tags sets the fields of a source whose releases have tags. A tag of a higher fragment
// overrides source.prereleases, which chooses among releases.
func (v *validation) tags(s *Source) {
	const tag, prereleases = "source.tag", "source.prereleases"
	s.TagPrefix = v.text("source.tag_prefix")
	s.Prereleases = v.boolean(prereleases)
	if s.Checksums = v.text("source.checksums"); s.Checksums == checksumsAuto {
		s.Checksums = ""
	}
	if s.Tag == "" {
		return
	}
	if _, ok := s.VersionOf(s.Tag); !ok && s.TagPrefix != "" {
		v.problem(tag, "must be source.tag_prefix and a version, which begins with a digit, or with v and a digit", "")
	} else if !ok {
		v.problem(tag, "must be a version ("+wordAllowed+")", "set source.tag_prefix to what stands before the version")
	}
	if s.Prereleases && v.settings[prereleases].order >= v.settings[tag].order {
		v.problem(prereleases, "means nothing with source.tag, which names one release", "")
	}
	s.Prereleases = false
}

// Package version defines the order of versions in this module: which of two is lower,
// and which are in a range.
//
// Versions and tags are free text of publishers. A text without a dotted number, such as
// build-82, is not ordered: it is neither lower nor higher than others, and in no range.
// [manifest.SameVersion] compares two versions for equality, which needs no order.
package version

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync"

	semver "github.com/hashicorp/go-version"
)

// Lower reports whether a comes before b in the order of Semantic Versioning, with any
// number of dotted numbers. It ignores build metadata, which follow a "+". It is false if
// one of them is not ordered.
func Lower(a, b string) bool {
	x, y := parse(a), parse(b)
	if x == nil || y == nil {
		return false
	}
	// The library sorts alpha.beta before alpha.
	p, q := x.Prerelease(), y.Prerelease()
	if slices.Equal(x.Segments64(), y.Segments64()) && p != "" && q != "" {
		if strings.HasPrefix(q, p+".") || strings.HasPrefix(p, q+".") {
			return len(p) < len(q)
		}
	}
	return x.LessThan(y)
}

// Ordered reports whether v is ordered.
func Ordered(v string) bool { return parse(v) != nil }

// Range is a set of versions. The zero Range contains all versions.
type Range struct {
	text        string
	prereleases bool // see WithPrereleases
}

// maxRange is the greatest length of a range's text in bytes.
const maxRange = 200

// ParseRange parses conditions such as ">=3, <4", all of which a version must meet. Each
// is one of = != > < >= <= ~> and a version.
func ParseRange(text string) (Range, error) {
	if len(text) > maxRange {
		return Range{}, errors.New("it is too long")
	}
	if _, err := semver.NewConstraint(text); err != nil {
		return Range{}, err
	}
	return Range{text: text}, nil
}

// String returns the text that ParseRange parsed, or "" for the zero Range.
func (r Range) String() string { return r.text }

// Bounds reports whether the range has conditions.
func (r Range) Bounds() bool { return r.text != "" }

// WithPrereleases returns the range in which a pre-release is, too, if the version that it
// precedes is: with "<4" 3.5.0-rc1 is, and 4.0.0-rc1 is not.
func (r Range) WithPrereleases() Range {
	r.prereleases = true
	return r
}

// Has reports whether a version is in the range. A pre-release such as 4.0.0-rc1 is in a
// range only if a condition names a pre-release of 4.0.0, because "<4" is not meant to
// include 4.0.0-rc1. See also [Range.WithPrereleases].
func (r Range) Has(v string) bool {
	if !r.Bounds() {
		return true
	}
	conditions, err := semver.NewConstraint(r.text) // cannot fail, since ParseRange did not
	p := parse(v)
	if err != nil || p == nil {
		return false
	}
	if r.prereleases && conditions.Check(p.Core()) {
		return true
	}
	// The library lets != alone accept each pre-release.
	if p.Prerelease() != "" && !slices.ContainsFunc(conditions, (*semver.Constraint).Prerelease) {
		return false
	}
	return conditions.Check(p)
}

var (
	// publishedForm matches the versions of publishers, which may have a name before the
	// number: release-1.4.0, app/v1.2.3, app@1.2.3, go1.22.2. It is compiled when it is
	// needed, because most commands never compare versions.
	publishedForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(?:[vV]?|.*?[-_/@][vV]?|[A-Za-z]+)([0-9]+(?:\.[0-9]+)+)((?:[-~+]|\.?[A-Za-z]).*)?$`)
	})
	// bareNumber matches a number without a dot and without a name before it: one such as
	// build-82 often counts something else than releases.
	bareNumber = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[vV]?([0-9]+)$`) })
)

// finalWords are suffixes that mark a final release, not a pre-release.
var finalWords = []string{"final", "ga", "lts", "release", "stable"}

const (
	// maxParsed and maxCached limit what the cache of parsed versions holds: strangers may
	// have written them.
	maxParsed = 256
	maxCached = 64 // bytes
)

// parsed caches what parseNew returned: a fleet has few versions, and its check-ins compare
// them thousands of times a second.
var parsed struct {
	sync.Mutex
	by map[string]*semver.Version
}

// parse returns a version in a form that can be compared, or nil if it is not ordered.
func parse(v string) *semver.Version {
	if len(v) > maxCached {
		return parseNew(v)
	}
	parsed.Lock()
	p, ok := parsed.by[v]
	parsed.Unlock()
	if ok {
		return p
	}
	p = parseNew(v)
	parsed.Lock()
	defer parsed.Unlock()
	if parsed.by == nil || len(parsed.by) >= maxParsed {
		parsed.by = map[string]*semver.Version{}
	}
	parsed.by[v] = p
	return p
}

func parseNew(v string) *semver.Version {
	number, rest := "", ""
	if m := bareNumber().FindStringSubmatch(v); m != nil {
		number = m[1]
	} else if m := publishedForm().FindStringSubmatch(v); m != nil {
		number, rest = m[1], m[2]
	} else {
		return nil
	}
	before, build, _ := strings.Cut(rest, "+")
	before = strings.TrimLeft(before, "-~.")
	if before != "" && !slices.Contains(finalWords, strings.ToLower(before)) {
		number += "-" + before
	}
	if build != "" {
		number += "+" + build
	}
	p, err := semver.NewVersion(number)
	if err != nil {
		return nil // the library does not support this number or suffix
	}
	return p
}

// Package version holds the one order of versions in this module: which of two is
// lower, and which are in a range.
//
// Versions and tags are text of strangers. What is no number with dots, such as
// build-82, has no place in the order: nothing is lower or higher than it, and no
// range has it. Whether two texts name the same version is manifest.SameVersion's
// question, which needs no order.
package version

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync"

	semver "github.com/hashicorp/go-version"
)

// Lower reports whether a is before b in the order of Semantic Versioning, whose
// numbers may be of any length here. What follows a "+" does not count.
func Lower(a, b string) bool {
	x, y := parse(a), parse(b)
	if x == nil || y == nil {
		return false
	}
	// The library has alpha.beta before alpha.
	p, q := x.Prerelease(), y.Prerelease()
	if slices.Equal(x.Segments64(), y.Segments64()) && p != "" && q != "" {
		if strings.HasPrefix(q, p+".") || strings.HasPrefix(p, q+".") {
			return len(p) < len(q)
		}
	}
	return x.LessThan(y)
}

// Ordered reports whether a version has a place in the order.
func Ordered(v string) bool { return parse(v) != nil }

// A Range is a set of versions. The zero Range is no restriction.
type Range struct{ text string }

// maxRange is how long the text of a range may be.
const maxRange = 200

// ParseRange reads conditions such as ">=3, <4", all of which a version must meet:
// = != > < >= <= ~> and a version each.
func ParseRange(text string) (Range, error) {
	if len(text) > maxRange {
		return Range{}, errors.New("it is too long")
	}
	if _, err := semver.NewConstraint(text); err != nil {
		return Range{}, err
	}
	return Range{text}, nil
}

// String is the range as it was written; "" for the zero Range.
func (r Range) String() string { return r.text }

// Bounds reports whether the range is a restriction.
func (r Range) Bounds() bool { return r.text != "" }

// Has reports whether a version is in the range. One that comes before a release,
// such as 4.0.0-rc1, is in a range only if that names one of the same number:
// people who write "<4" do not mean it.
func (r Range) Has(v string) bool {
	if !r.Bounds() {
		return true
	}
	conditions, err := semver.NewConstraint(r.text) // never fails: ParseRange has read it
	p := parse(v)
	if err != nil || p == nil {
		return false
	}
	// The library lets != alone accept each pre-release.
	if p.Prerelease() != "" && !slices.ContainsFunc(conditions, (*semver.Constraint).Prerelease) {
		return false
	}
	return conditions.Check(p)
}

var (
	// form is a version as publishers write it: a name may stand before the number,
	// as in release-1.4.0, app/v1.2.3, app@1.2.3 and go1.22.2. It is compiled when it
	// is needed: most commands never compare versions.
	form = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(?:[vV]?|.*?[-_/@][vV]?|[A-Za-z]+)([0-9]+(?:\.[0-9]+)+)((?:[-~+]|\.?[A-Za-z]).*)?$`)
	})
	// lone is a number without a dot. With a name before it, as in build-82, it counts
	// something else than releases as often as not.
	lone = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[vV]?([0-9]+)$`) })
)

// finals are the words behind a number that say that the release is one.
var finals = []string{"final", "ga", "lts", "release", "stable"}

// parse is the place of a version in the order; nil if it has none.
func parse(v string) *semver.Version {
	number, rest := "", ""
	if m := lone().FindStringSubmatch(v); m != nil {
		number = m[1]
	} else if m := form().FindStringSubmatch(v); m != nil {
		number, rest = m[1], m[2]
	} else {
		return nil
	}
	before, build, _ := strings.Cut(rest, "+")
	before = strings.TrimLeft(before, "-~.")
	if before != "" && !slices.Contains(finals, strings.ToLower(before)) {
		number += "-" + before
	}
	if build != "" {
		number += "+" + build
	}
	p, err := semver.NewVersion(number)
	if err != nil {
		return nil // a number or a mark that the order does not know
	}
	return p
}

package manifest

import (
	"regexp"
	"slices"
	"strings"
)

// SameVersion reports whether two versions are equal apart from a leading "v", which
// tags have and the output of programs often lacks.
func SameVersion(a, b string) bool { return Number(a) == Number(b) }

// Mentions reports whether a program's output contains a version as a whole word, so
// that 1.9.1 is not found in 1.9.10.
func Mentions(output, version string) bool {
	return slices.ContainsFunc(words(output), func(w string) bool { return SameVersion(w, version) })
}

var (
	dotted = regexp.MustCompile(`^v?[0-9]+(\.[0-9]+)+`)
	digit  = regexp.MustCompile(`[0-9]`)
)

// FindVersion returns the version in the output of `program --version`: the first word
// like 1.2 or v1.2.3, else the first word with a digit that is not program, else "".
func FindVersion(output, program string) string {
	second := ""
	for _, w := range words(output) {
		if !ValidName(w) || w == program {
			continue
		}
		if dotted.MatchString(w) {
			return w
		}
		if second == "" && digit.MatchString(w) {
			second = w
		}
	}
	return second
}

// words splits s at characters that versions cannot have, and removes full stops at the
// ends of words.
func words(s string) []string {
	fields := strings.FieldsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".+_~-", r))
	})
	for i, f := range fields {
		fields[i] = strings.TrimRight(f, ".")
	}
	return fields
}

// Number returns a version without the "v" that tags have before the number.
func Number(v string) string {
	if len(v) > 1 && (v[0] == 'v' || v[0] == 'V') && v[1] >= '0' && v[1] <= '9' {
		return v[1:]
	}
	return v
}

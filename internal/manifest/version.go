package manifest

import (
	"regexp"
	"strings"
)

// SameVersion compares two versions as people mean them: a leading "v" says
// nothing (tags have it, programs often leave it out of their output).
func SameVersion(a, b string) bool { return Number(a) == Number(b) }

// Mentions tells whether a program's output names a version: as a whole word,
// so that 1.9.1 is not found in 1.9.10.
func Mentions(output, version string) bool {
	for _, w := range words(output) {
		if SameVersion(w, version) {
			return true
		}
	}
	return false
}

var (
	dotted = regexp.MustCompile(`^v?[0-9]+(\.[0-9]+)+`)
	digit  = regexp.MustCompile(`[0-9]`)
)

// FindVersion picks the version out of the output of `program --version`: the
// first word that looks like 1.2 or v1.2.3, else the first one with a digit in
// it that is not the program's own name. It is "" when there is none.
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

// words splits at everything that cannot be part of a version, and takes off
// the full stop of a sentence.
func words(s string) []string {
	fields := strings.FieldsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".+_~-", r))
	})
	for i, f := range fields {
		fields[i] = strings.TrimRight(f, ".")
	}
	return fields
}

// Number is a version without the "v" that tags put before a number.
func Number(v string) string {
	if len(v) > 1 && (v[0] == 'v' || v[0] == 'V') && v[1] >= '0' && v[1] <= '9' {
		return v[1:]
	}
	return v
}

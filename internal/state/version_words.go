package state

import "cmp"

// Unknown stands in a column, or a field, for a version that nothing tells.
const Unknown = "unknown"

// Called names a release in a sentence, by its version. One that no record and no
// program tells is of files that lay there before the first update.
func Called(version string) string {
	return cmp.Or(version, "the files of before, version unknown")
}

// Versions are what the attempt led from and to: "" where it came to none, and
// [Unknown] where it did and nothing tells which.
func (a Attempt) Versions() (from, to string) {
	if a.Result.is(replaced) {
		return cmp.Or(a.From, Unknown), cmp.Or(a.Version, Unknown)
	}
	return a.From, a.Version
}

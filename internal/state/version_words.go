package state

import "cmp"

// Unknown is printed in a column or field for a version that is not known.
const Unknown = "unknown"

// Called names a release in a sentence by its version. Without a version, the release is
// the files from before the first update.
func Called(version string) string {
	return cmp.Or(version, "the files of before, version unknown")
}

// Versions returns the versions from and to which the attempt led. One that is not known
// is [Unknown] if the attempt replaced a release, and otherwise "".
func (a Attempt) Versions() (from, to string) {
	if a.Result.is(replaced) {
		return cmp.Or(a.From, Unknown), cmp.Or(a.Version, Unknown)
	}
	return a.From, a.Version
}

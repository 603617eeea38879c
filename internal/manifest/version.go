package manifest

// SameVersion reports whether two versions are equal apart from a leading "v", which
// tags have and the output of programs often lacks.
func SameVersion(a, b string) bool { return Number(a) == Number(b) }

// Number returns a version without the "v" that tags have before the number.
func Number(v string) string {
	if len(v) > 1 && (v[0] == 'v' || v[0] == 'V') && v[1] >= '0' && v[1] <= '9' {
		return v[1:]
	}
	return v
}

// Package nearest finds the name that was probably meant by a mistyped one.
package nearest

import "github.com/agnivade/levenshtein"

// Hint returns a hint that asks for the known name nearest to name, or "" if none is near:
// at most two letters may differ, and at most half of them.
func Hint(name string, known []string) string {
	const most = 2
	if len(name) > 100 {
		return "" // the time grows with the square
	}
	best, least := "", min(most, (len(name)+1)/2)+1
	for _, k := range known {
		if d := levenshtein.ComputeDistance(name, k); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return `did you mean "` + best + `"?`
}

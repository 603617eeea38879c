package command

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/target"
)

// generalize replaces in a name of a release what differs between releases and machines by
// placeholders.
func generalize(name, version string) string {
	for _, placeholder := range []string{"{version}", "{number}", "{machine}", "{arch}", "{os}"} {
		value := (target.Install{From: placeholder}).Name(manifest.Host(), version)
		if len(value) < 3 { // "1" is in too many names
			continue
		}
		for at := 0; ; {
			i := strings.Index(name[at:], value)
			if i < 0 {
				break
			}
			at += i
			if end := at + len(value); wordEnds(name[end:]) {
				name = name[:at] + placeholder + name[end:]
				at += len(placeholder)
			} else {
				at = end
			}
		}
	}
	return name
}

// wordEnds reports whether no letter or digit follows: "arm" is no word of "arm64".
func wordEnds(rest string) bool {
	return rest == "" || !('a' <= rest[0] && rest[0] <= 'z' || 'A' <= rest[0] && rest[0] <= 'Z' || '0' <= rest[0] && rest[0] <= '9')
}

// archives are the ends of the names of what the verifier can unpack, the usual ones first.
var archives = []string{".tar.gz", ".tgz", ".tar.xz", ".tar.zst", ".tar.bz2", ".tar", ".zip", ".xz", ".zst", ".gz", ".bz2"}

// chooseArchive returns the file of a release that is for this machine, "" if no name says
// so. Of several it returns the one that has least beside the program's name and the
// placeholders.
func chooseArchive(names []string, program, version string) string {
	type choice struct {
		name string
		rank []int
	}
	var choices []choice
	for _, n := range names {
		p := generalize(n, version)
		if strings.ContainsAny(n, `*?[]{}\`) || !strings.Contains(p, "{arch}") && !strings.Contains(p, "{machine}") || !strings.Contains(strings.ToLower(n), "linux") {
			continue
		}
		kind := slices.IndexFunc(archives, func(end string) bool { return strings.HasSuffix(n, end) })
		if kind < 0 {
			if !strings.HasSuffix(p, "}") { // a signature, a package, a list
				continue
			}
			kind = len(archives) // the program itself
		}
		other := 1
		if strings.HasPrefix(strings.ToLower(n), strings.ToLower(program)) {
			other = 0
		}
		choices = append(choices, choice{n, []int{other, len(p) - len(archiveEnd(n)), kind}})
	}
	if len(choices) == 0 {
		return ""
	}
	return slices.MinFunc(choices, func(a, b choice) int {
		return cmp.Or(slices.Compare(a.rank, b.rank), strings.Compare(a.name, b.name))
	}).name
}

func archiveEnd(name string) string {
	for _, end := range archives {
		if strings.HasSuffix(name, end) {
			return end
		}
	}
	return ""
}

// chooseEntry returns the name of the program in an archive with these entries, with
// placeholders; "" if no entry has its name.
func chooseEntry(entries []string, program, version string) string {
	best, rank := "", 0
	for _, e := range entries {
		base := generalize(filepath.Base(e), version)
		r := 0
		switch rest, begins := strings.CutPrefix(base, program); {
		case len(entries) == 1:
			r = 4
		case base == program:
			r = 3
		case begins && wordEnds(rest) && !strings.Contains(rest, "."):
			r = 2
		}
		if strings.ContainsAny(e, `*?[]{}\`) {
			continue
		}
		if r > rank || r == rank && r > 0 && strings.Count(e, "/") < strings.Count(best, "/") {
			best, rank = e, r
		}
	}
	return generalize(best, version)
}

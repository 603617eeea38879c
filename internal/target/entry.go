package target

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// archNames are the publisher's names of architectures, by those in platform keys.
type archNames map[string]string

// architectures are the architectures in platform keys of Linux, and what uname -m prints
// on such machines.
var architectures = map[string]string{
	"386":      "i686",
	"amd64":    "x86_64",
	"arm64":    "aarch64",
	"armv5":    "armv5tel",
	"armv6":    "armv6l",
	"armv7":    "armv7l",
	"loong64":  "loongarch64",
	"mips64le": "mips64",
	"ppc64le":  "ppc64le",
	"riscv64":  "riscv64",
	"s390x":    "s390x",
}

// fill replaces the placeholders of a name for version and platform, a key of the manifest
// such as "linux-armv7". {number} is [manifest.Number] of the version: often a tag is
// "v1.9.1" and the files' names contain "1.9.1".
func (names archNames) fill(name, platform, version string) string {
	os, arch, _ := strings.Cut(platform, "-")
	machine, known := architectures[arch]
	if !known {
		machine = arch
	}
	if own, odd := names[arch]; odd {
		arch = own
	}
	return strings.NewReplacer("{os}", os, "{arch}", arch, "{machine}", machine,
		"{version}", version, "{number}", manifest.Number(version)).Replace(name)
}

// Name returns the entry's name, or the glob for it, in the archive of version for
// platform.
func (i Install) Name(platform, version string) string {
	return i.names.fill(i.From, platform, version)
}

// Find returns the entry's name in the archive of version for platform, whose entries have
// these names. For a glob it returns "" if no name matches, and an error if several do. For
// a plain name it does not look whether the entry is there.
func (i Install) Find(platform, version string, names []string) (string, error) {
	name := i.Name(platform, version)
	if !isGlob(name) {
		return name, nil
	}
	var found []string
	for _, n := range names {
		if fits, err := path.Match(name, n); err == nil && fits { // installs has refused globs that are not valid
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return "", nil
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%s must match exactly one entry, and %d match: %s", name, len(found), SomeNames(found))
}

// Matches reports whether an entry may be the one that Find returns.
func (i Install) Matches(platform, version, entry string) bool {
	name := i.Name(platform, version)
	fits, err := path.Match(name, entry)
	return name == entry || isGlob(name) && err == nil && fits
}

func isGlob(name string) bool { return strings.ContainsAny(name, "*?[") }

// SomeNames returns the first of the names, sorted, for a message. Strangers chose them.
func SomeNames(names []string) string {
	const most = 5
	names = slices.Sorted(slices.Values(names))
	var some []string
	for _, n := range names[:min(len(names), most)] {
		quoted := fmt.Sprintf("%+.80q", n)
		if quoted == `"`+n+`"` {
			quoted = n
		}
		some = append(some, quoted)
	}
	text := strings.Join(some, ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// archNames returns source.arch.
func (v *validation) archNames() archNames {
	var names archNames
	for arch := range architectures {
		if own := v.text("source.arch." + arch); own != "" {
			if names == nil {
				names = archNames{}
			}
			names[arch] = own
		}
	}
	return names
}

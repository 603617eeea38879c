package target

import (
	"fmt"
	"maps"
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

// Files returns which of these names are installed from the archive of version for
// platform, by their paths below [Install.To]; the path of a file that is no tree is "".
// For a glob of a directory that does not match exactly one it returns an error, or nothing.
func (i Install) Files(platform, version string, names []string) (map[string]string, error) {
	if !i.Tree {
		name, err := i.Find(platform, version, names)
		if err != nil || !slices.Contains(names, name) {
			return nil, err
		}
		return map[string]string{"": name}, nil
	}
	files, dirs := map[string]string{}, map[string]bool{}
	for _, n := range names {
		if dir, ok := i.directory(platform, version, n); ok {
			dirs[dir] = true
			files[strings.TrimPrefix(n, dir)] = n
		}
	}
	if len(dirs) > 1 {
		return nil, fmt.Errorf("%s must match exactly one directory, and %d match: %s", i.Name(platform, version), len(dirs), SomeNames(slices.Collect(maps.Keys(dirs))))
	}
	return files, nil
}

// Elsewhere returns, for a file that is not where From says, the From that finds it: the only
// one of these names that ends as From or To does. It returns "" if there is no such one.
func (i Install) Elsewhere(platform, version string, names []string) string {
	found := ""
	for _, n := range names {
		if base := path.Base(n); base != path.Base(i.Name(platform, version)) && base != path.Base(i.To) && len(names) > 1 {
			continue
		}
		if found != "" || i.Tree {
			return ""
		}
		found = n
	}
	// What differs from release to release becomes a placeholder again.
	for _, placeholder := range []string{"{version}", "{number}", "{arch}", "{machine}"} {
		if value := i.names.fill(placeholder, platform, version); len(value) > 2 {
			found = strings.ReplaceAll(found, value, placeholder)
		}
	}
	return found
}

// directory reports whether an entry is below the directory of a tree, or below one that
// its glob matches, and returns that directory with a / at its end; "" is all of the archive.
func (i Install) directory(platform, version, entry string) (dir string, ok bool) {
	name := i.Name(platform, version)
	if name == "./" {
		return "", true
	}
	at := 0
	for range strings.Count(name, "/") {
		n := strings.IndexByte(entry[at:], '/')
		if n < 0 {
			return "", false
		}
		at += n + 1
	}
	dir = entry[:at]
	fits, err := path.Match(strings.TrimSuffix(name, "/"), strings.TrimSuffix(dir, "/"))
	return dir, name == dir || isGlob(name) && err == nil && fits
}

// Has reports whether a path is the installed file, or a file below the installed tree.
func (i Install) Has(file string) bool {
	return i.To == file || i.Tree && within(file, i.To)
}

// Matches reports whether an entry may be one that Find or Files returns.
func (i Install) Matches(platform, version, entry string) bool {
	if i.Tree {
		_, ok := i.directory(platform, version, entry)
		return ok
	}
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

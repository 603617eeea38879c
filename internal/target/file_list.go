package target

import (
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// MaxList is the size in bytes beyond which a list of files is not read.
const MaxList = 64 << 10

// maxListed is how many files a release may list. Far more than a daemon has.
const maxListed = 256

// Listing says which files a release may bring beside those of [[install]], by a
// list of its own in the archive. Such a list is a line TYPE:NAME for each file,
// which is in the archive beside the list; empty lines and lines that begin with
// # say nothing.
//
// The list is a stranger's. What it can do is bounded here: it chooses among the
// names that the target allows, and never a directory, mode or owner.
type Listing struct {
	File     string // the list's name in the archive, with placeholders as in [Install.From]
	Optional bool   // a release without the list is complete
	Types    []ListedType
}

// ListedType is what becomes of the files of one type.
type ListedType struct {
	Name      string
	Directory string // where they go
	Mode      fs.FileMode
	Allow     []string // globs of [path.Match] for their names; a release with another is refused
	Exclude   []string // those of the allowed that are left alone
}

// Entry is the list's name in the archive of version for platform; "" where the
// target has no list.
func (l *Listing) Entry(platform, version string) string {
	if l == nil {
		return ""
	}
	return Install{From: l.File}.Name(platform, version)
}

// plainName is what a listed file may be called: one word that no shell, unit or
// directory listing takes for anything else.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._@+-]{0,99}$`)

// MayName tells whether the list, beside which the entry must be, could name it.
func (l *Listing) MayName(entry, platform, version string) bool {
	dir, name := path.Split(entry)
	return l != nil && dir == dirOf(l.Entry(platform, version)) &&
		slices.ContainsFunc(l.Types, func(t ListedType) bool { return t.takes(name) })
}

// Covers tells whether a list could have brought this file.
func (l *Listing) Covers(file string) bool {
	dir, name := filepath.Dir(file), filepath.Base(file)
	return l != nil && slices.ContainsFunc(l.Types, func(t ListedType) bool { return t.Directory == dir && t.takes(name) })
}

func (t ListedType) takes(name string) bool {
	return plainName.MatchString(name) && matches(t.Allow, name) && !matches(t.Exclude, name)
}

func matches(globs []string, name string) bool {
	return slices.ContainsFunc(globs, func(glob string) bool {
		fits, err := path.Match(glob, name)
		return err == nil && fits // listing refused what is no glob
	})
}

func dirOf(entry string) string {
	dir, _ := path.Split(entry)
	return dir
}

// AddListed adds to Install what the list in the archive of version for platform
// names, but for the places that [[install]] names already. excluded are the
// names that the target file leaves alone. After an error nothing was added.
func (t *Target) AddListed(list []byte, platform, version string) (excluded []string, err error) {
	dir := dirOf(t.Listing.Entry(platform, version))
	if len(list) > MaxList {
		return nil, fmt.Errorf("it is larger than %d KiB", MaxList>>10)
	}
	installs := slices.Clone(t.Install)
	rows, n := len(installs), 0
	for line := range strings.Lines(string(list)) {
		n++
		line = strings.Trim(line, " \t\r\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		kind, name, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("line %d %+.80q is not TYPE:NAME", n, line)
		}
		at := slices.IndexFunc(t.Listing.Types, func(lt ListedType) bool { return lt.Name == kind })
		if at < 0 {
			return nil, fmt.Errorf("line %d %+.80q is of a type that the target file does not have", n, line)
		}
		lt := t.Listing.Types[at]
		if !plainName.MatchString(name) {
			return nil, fmt.Errorf("line %d %+.80q does not name a file plainly", n, line)
		}
		if matches(lt.Exclude, name) {
			excluded = append(excluded, name)
			continue
		}
		if !matches(lt.Allow, name) {
			return nil, fmt.Errorf("line %d %+.80q is not among the files that the target file allows", n, line)
		}
		mode := lt.Mode
		i := Install{From: dir + name, To: filepath.Join(lt.Directory, name), Mode: &mode, Listed: true}
		switch at := slices.IndexFunc(installs, func(other Install) bool { return other.To == i.To }); {
		case at >= rows:
			return nil, fmt.Errorf("line %d %+.80q is there twice", n, line)
		case at >= 0:
			installs[at].Optional = false // this release has it
		default:
			installs = append(installs, i)
		}
		if len(installs)-rows > maxListed {
			return nil, fmt.Errorf("it lists more than %d files", maxListed)
		}
	}
	t.Install = installs
	return excluded, nil
}

func (v *validation) listing() *Listing {
	if !v.written("install_manifest") {
		return nil
	}
	l := &Listing{File: v.text("install_manifest.file"), Optional: v.boolean("install_manifest.optional")}
	for _, at := range v.elements("install_manifest.type") {
		lt := ListedType{
			Name:      v.text(at + ".name"),
			Directory: v.text(at + ".directory"),
			Allow:     v.texts(at + ".allow"),
			Exclude:   v.texts(at + ".exclude"),
		}
		if mode := v.mode(at + ".mode"); mode != nil {
			lt.Mode = *mode
		}
		if slices.ContainsFunc(l.Types, func(other ListedType) bool { return other.Name == lt.Name }) {
			v.problem(at+".name", "is there twice", "")
		}
		v.destination(at+".directory", filepath.Join(lt.Directory, "file"))
		l.Types = append(l.Types, lt)
	}
	return l
}

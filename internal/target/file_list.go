package target

import (
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/pattern"
)

// MaxList is the size in bytes of the largest list of files that is read.
const MaxList = 64 << 10

// maxListed is how many files a release may list: far more than a daemon has.
const maxListed = 256

// A Listing says which files a release may bring in addition to those of [[install]]. A
// list in the archive names them, one line TYPE:NAME for each; the files are in the
// list's directory of the archive. Empty lines and lines that begin with # are ignored.
//
// The publisher writes the list, so the target file limits what it can do: it selects
// among the names that the target file allows, and has no influence on directory, mode or
// owner.
type Listing struct {
	File     string // the list's name in the archive, with placeholders as in [Install.From]
	Optional bool   // whether a release without the list is complete
	Types    []ListedType

	names archNames
}

// A ListedType says how files of one type are installed.
type ListedType struct {
	Name      string
	Directory string // the directory they are installed in
	Mode      fs.FileMode
	Allow     []string // globs of [path.Match]; a release that lists a name that none matches is refused
	Exclude   []string // globs of allowed names that are not installed
}

// Entry returns the list's name in the archive of version for platform, or "" if the
// target has no list.
func (l *Listing) Entry(platform, version string) string {
	if l == nil {
		return ""
	}
	return l.names.fill(l.File, platform, version)
}

// plainName matches the names that a listed file may have: one word that a shell, a unit
// file or a listing of a directory shows as it is.
var plainName = pattern.New(`^[A-Za-z0-9_][A-Za-z0-9._@+-]{0,99}$`)

// MayName reports whether the list in this archive could name the entry.
func (l *Listing) MayName(entry, platform, version string) bool {
	return l.some(entry, platform, version, ListedType.takes)
}

// LeavesOut reports whether the entry is one that the target file excludes if the list in
// this archive names it.
func (l *Listing) LeavesOut(entry, platform, version string) bool {
	return l.some(entry, platform, version, func(t ListedType, name string) bool {
		return plainName.MatchString(name) && matches(t.Exclude, name)
	})
}

// some reports whether the entry is beside the list and fits one of the types.
func (l *Listing) some(entry, platform, version string, fits func(ListedType, string) bool) bool {
	if l == nil {
		return false
	}
	dir, name := path.Split(entry)
	listed, _ := path.Split(l.Entry(platform, version))
	return dir == listed && slices.ContainsFunc(l.Types, func(t ListedType) bool { return fits(t, name) })
}

// Covers reports whether a list could have caused the installation of this file.
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
		return err == nil && fits // listing has refused globs that are not valid
	})
}

// AddListed adds to Install the files that the list in the archive of version for
// platform names, except those that [[install]] names already. excluded are the entries
// of the listed files that the target file excludes. After an error, Install is unchanged.
func (t *Target) AddListed(list []byte, platform, version string) (excluded []string, err error) {
	dir, _ := path.Split(t.Listing.Entry(platform, version))
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
			return nil, fmt.Errorf("line %d %+.80q is of a type that the target file does not have "+
				"(hint: add an [[install_manifest.type]]; exclude = [\"*\"] in it leaves such files out)", n, line)
		}
		lt := t.Listing.Types[at]
		if !plainName.MatchString(name) {
			return nil, fmt.Errorf("line %d %+.80q does not name a file plainly", n, line)
		}
		out := matches(lt.Exclude, name)
		if out && !slices.Contains(excluded, dir+name) {
			excluded = append(excluded, dir+name)
		}
		if len(installs)-rows+len(excluded) > maxListed {
			return nil, fmt.Errorf("it lists more than %d files", maxListed)
		}
		if out {
			continue
		}
		if !matches(lt.Allow, name) {
			return nil, fmt.Errorf("line %d %+.80q is not among the files that the target file allows "+
				"(hint: if it is not needed, exclude it in [[install_manifest.type]])", n, line)
		}
		mode := lt.Mode
		i := Install{From: dir + name, To: filepath.Join(lt.Directory, name), Mode: &mode, Listed: true}
		switch at := slices.IndexFunc(installs, func(other Install) bool { return other.To == i.To }); {
		case at >= rows:
			return nil, fmt.Errorf("line %d %+.80q is there twice", n, line)
		case at >= 0:
			installs[at].Optional = false // this release lists it, so it must contain it
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

// AddRecorded is AddListed for a release of which only the manifest's contents are known.
// list is that of the installed release, "" if it is not known. ok reports whether it is
// also this release's; a release without a list, if it needs none, adds nothing.
func (t *Target) AddRecorded(list string, contents map[string]manifest.Content, platform, version string) (ok bool, err error) {
	entry := t.Listing.Entry(platform, version)
	want, listed := contents[entry]
	if !listed {
		return t.Listing == nil || t.Listing.Optional, nil
	}
	if list == "" || manifest.Digest([]byte(list)) != want.SHA256 {
		return false, nil
	}
	_, err = t.AddListed([]byte(list), platform, version)
	return err == nil, err
}

func (v *validation) listing() *Listing {
	if !v.written("install_manifest") {
		return nil
	}
	l := &Listing{File: v.text("install_manifest.file"), Optional: v.boolean("install_manifest.optional"), names: v.archNames()}
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

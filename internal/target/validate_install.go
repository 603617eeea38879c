package target

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
)

func (v *validation) installs() []Install {
	var installs []Install
	for _, at := range v.elements("install") {
		i := Install{
			From:     v.text(at + ".from"),
			To:       v.text(at + ".to"),
			Mode:     v.mode(at + ".mode"),
			Owner:    unlessEmpty(v.text(at + ".owner")),
			Group:    unlessEmpty(v.text(at + ".group")),
			Optional: v.boolean(at + ".optional"),
			Keep:     v.texts(at + ".keep"),
			Releases: v.text(at + ".releases"),
			names:    v.archNames(),
		}
		i.Tree = strings.HasSuffix(i.From, "/")
		if !i.Tree && v.written(at+".keep") {
			v.bad(at + ".keep")
		}
		if v.check.ofUser(i.To) {
			v.ofUser(at, i)
		}
		if !durable.InHome(i.To) {
			v.destination(at+".to", i.To)
		}
		if i.Tree {
			v.treeDestination(at+".to", i.To)
		}
		if v.written(at + ".releases") {
			v.releases(at, i)
		}
		for _, other := range installs {
			if other.To == i.To {
				v.problem(at+".to", "is installed twice", "")
				continue
			}
			for _, p := range other.spots() {
				for _, own := range i.spots() {
					if p.tree && within(own.path, p.path) || own.tree && within(p.path, own.path) {
						v.problem(at+"."+own.key, "overlaps "+p.path+", which is installed, too", "")
					}
				}
			}
		}
		installs = append(installs, i)
	}
	return installs
}

// releases checks the key install.releases.
func (v *validation) releases(install string, i Install) {
	at := install + ".releases"
	switch {
	case !i.Tree:
		v.problem(at, "stands beside a file", "the name of a directory in from ends with /")
	case v.written(install + ".keep"):
		v.problem(at, "stands beside keep", "each release has a directory of its own, so keep the data elsewhere, such as in /var/lib")
	case within(i.To, i.Releases), within(i.Releases, i.To):
		v.problem(at, "overlaps to, which is the link to one of the releases", `as in to = "/opt/NAME/current" and releases = "/opt/NAME/releases"`)
	}
	v.destination(at, i.Releases)
	v.treeDestination(at, i.Releases)
}

// A spot is a path at which an install has something: a tree has all that is below.
type spot struct {
	key, path string
	tree      bool
}

// spots returns the spots of an install.
func (i Install) spots() []spot {
	if i.Releases == "" {
		return []spot{{"to", i.To, i.Tree}}
	}
	return []spot{{"to", i.To, false}, {"releases", i.Releases, true}}
}

// treeDestination refuses a directory that has more below it than one program.
func (v *validation) treeDestination(path, dir string) {
	if what := aroundForbidden(dir); what != "" {
		v.problem(path, "must not contain "+what, "")
	}
	if slices.Contains(sharedDirs, dir) {
		v.problem(path, "is a directory of many programs, which a release would replace", "name a directory of its own, such as /opt/NAME")
	}
}

func unlessEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// ofUser checks an install in a directory of the unit's user, whose process replaces the
// program there.
func (v *validation) ofUser(at string, i Install) {
	where := "/home"
	if !durable.InHome(i.To) {
		where = "a user's directory"
	}
	if i.Tree {
		v.problem(at+".to", "must not be a directory in "+where, ownHint(i.To))
	}
	if unit := v.text("unit"); unit == "" || IsTemplate(unit) {
		v.problem(at+".to", fmt.Sprintf("must not be in %s beside unit = %q", where, unit), ownHint(i.To))
	}
	for _, key := range []string{"mode", "owner", "group", "optional"} {
		if v.written(at + "." + key) {
			v.problem(at+"."+key, "means nothing for a file in "+where+", which keeps what it has", "remove it")
		}
	}
}

// programOfUser reports whether the target installs this file in a user's directory. As a
// version_command, only its new file is run, which root has checked.
func (v *validation) programOfUser(file string) bool {
	return v.check.ofUser(file) && slices.ContainsFunc(v.elements("install"), func(at string) bool { return v.text(at+".to") == file })
}

// destination checks a place to write as far as that needs no look at the machine.
// CheckDestinations checks the rest.
func (v *validation) destination(path, file string) {
	where := forbidden(file)
	switch {
	case where == "":
	case strings.HasSuffix(path, ".to") && (where == "/home" || where == "/root"):
		v.problem(path, "must not be in "+where, ownHint(file))
	default:
		v.problem(path, "must not be in "+where, "")
	}
}

// ownHint says what takes the place of a program in a home. Root does not write there, and
// what it installs must not be the user's to replace.
func ownHint(file string) string {
	program := "/usr/local/bin/" + filepath.Base(file)
	return fmt.Sprintf("write to = %q here and ExecStart=%s in the unit, which may keep its User=; root installs nothing where a user can write", program, program)
}

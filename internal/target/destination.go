package target

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// forbiddenDirs are directories in which a release has nothing to install, that belong to
// users, or that belong to machinemon-update itself.
var forbiddenDirs = []string{
	"/home", "/root", "/tmp", "/var/tmp", "/run", "/var/run", "/proc", "/sys", "/dev",
	"/usr/lib/machinemon-update", "/var/lib/machinemon-update", "/etc/machinemon-update",
}

// systemOwn are the files, and the directories with all files below, that decide which
// users there are, what they may do, and how the system starts and gets its packages. An
// update could lock everybody out with them, and a rollback would undo what happened to
// them meanwhile, such as a new password.
var systemOwn = []string{
	"/etc/passwd", "/etc/passwd-", "/etc/shadow", "/etc/shadow-", "/etc/group", "/etc/group-", "/etc/gshadow", "/etc/gshadow-",
	"/etc/subuid", "/etc/subuid-", "/etc/subgid", "/etc/subgid-", "/etc/sudoers", "/etc/sudoers.d", "/etc/doas.conf", "/etc/polkit-1",
	"/etc/pam.conf", "/etc/pam.d", "/etc/security", "/etc/login.defs", "/etc/shells", "/etc/nsswitch.conf", "/etc/ssh", "/etc/krb5.keytab",
	"/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.cache", "/etc/fstab", "/etc/crypttab", "/etc/machine-id", "/boot", "/efi",
	"/etc/apt", "/etc/dpkg", "/var/lib/dpkg", "/var/lib/apt", "/var/lib/systemd", "/etc/systemd/system.conf", "/etc/systemd/journald.conf",
	"/usr/lib/systemd/systemd", "/usr/lib/systemd/system-generators", "/etc/systemd/system-generators",
	"/usr/bin/machinemon-update", "/usr/bin/machinemon-release",
}

// sharedDirs are directories that belong to no single program.
var sharedDirs = []string{
	"/usr/local", "/usr/local/bin", "/usr/local/sbin", "/usr/local/lib", "/usr/local/libexec", "/usr/local/share", "/usr/local/etc",
	"/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/usr/share", "/etc/systemd/system", "/usr/lib/systemd/system",
	"/var/lib", "/var/log", "/var/cache", "/var/spool", "/var/opt",
}

// ownName reports whether an element of a path below a directory of systemd is a unit of
// machinemon-update, or the directory of such a unit's drop-ins.
func ownName(element string) bool {
	element = strings.TrimSuffix(element, ".d")
	return ownUnit.MatchString(strings.TrimSuffix(element, filepath.Ext(element)) + ".service")
}

// backupDir is the directory beside each destination in which the swapper keeps backups
// and temporary files.
const backupDir = ".machinemon-update"

// forbidden returns the directory in which path must not be, or "" if path is allowed.
func forbidden(path string) string {
	for _, dir := range forbiddenDirs {
		if within(path, dir) {
			return dir
		}
	}
	for _, own := range systemOwn {
		if within(path, own) {
			return own + ", which belongs to the system itself"
		}
	}
	if filepath.Dir(path) == "/" {
		return "/ itself"
	}
	if slices.Contains(strings.Split(path, "/"), backupDir) {
		return backupDir
	}
	if _, below, ok := strings.Cut(path, "/systemd/"); ok && slices.ContainsFunc(strings.Split(below, "/"), ownName) {
		return "the units of machinemon-update"
	}
	return ""
}

// CheckDestinations checks on this machine every file that an update of t would write.
// Its directory must exist and be writable only by root, and the file must not belong to
// a Debian package or to another target of all. A file that does not exist yet is
// allowed. all may contain t. The error is a *ConfigError.
func (t *Target) CheckDestinations(all []*Target) error {
	paths, err := t.places(all)
	if err != nil {
		return err
	}
	file, pkg, err := t.check.packaged(slices.Collect(maps.Keys(paths)))
	if err != nil {
		return t.refuse("", err.Error(), "")
	}
	if pkg != "" {
		return t.refuse(paths[file], file+" belongs to the Debian package "+pkg, "a program that apt installs is updated by apt")
	}
	return nil
}

// CheckPlaces is [Target.CheckDestinations] without the packages, whose lists of files take
// some 25 ms to read on a machine with 900 of them.
func (t *Target) CheckPlaces(all []*Target) error {
	_, err := t.places(all)
	return err
}

// places checks all but the packages. It returns the keys of the target file by the places that
// they name, both resolved and as written, because dpkg may know either.
func (t *Target) places(all []*Target) (paths map[string]string, err error) {
	if problem := t.check.oneName(t.Directories()); problem != "" {
		return nil, t.refuse("install", problem, "write it in one way")
	}
	paths = map[string]string{}
	for n, i := range t.Install {
		path := fmt.Sprintf("install[%d].to", n)
		if i.Listed {
			path = "install_manifest"
		}
		resolved, problem, hint := i.To, "", ""
		if i.Listed || i.Tree || !t.check.ofUser(i.To) { // there the unit's user looks, before the swap
			resolved, problem, hint = t.check.destination(i.To, i)
			if problem == "" {
				problem, hint = t.check.replaceable(resolved)
			}
		}
		if problem == "" {
			problem = t.taken(resolved, i.Tree && i.Releases == "", all)
		}
		found := []spot{{path, i.To, i.Tree && i.Releases == ""}}
		if problem == "" && i.Releases != "" {
			path = fmt.Sprintf("install[%d].releases", n)
			found = append(found, spot{path, i.Releases, true})
			resolved, problem, hint = t.check.releases(i.Releases)
			if problem == "" {
				problem = t.taken(resolved, true, all)
			}
		}
		if problem != "" {
			return nil, t.refuse(path, problem, hint)
		}
		for _, p := range found {
			for _, alias := range aliases(p.path, t.check.located(p.path)) {
				paths[alias] = p.key
				if p.tree {
					paths[alias+"/"] = p.key
				}
			}
		}
	}
	return paths, t.checkSnapshots(all)
}

// oneName returns the problem that dirs name one directory in two ways, or "". Files and
// backups in a directory are compared by their names, so each needs exactly one.
func (c checker) oneName(dirs []string) (problem string) {
	written := map[string]string{}
	for _, dir := range dirs {
		resolved, err := c.resolve(dir)
		if err != nil {
			continue // the check of the file in this directory reports the error
		}
		if other, twice := written[resolved]; twice {
			return dir + " and " + other + " are the same directory"
		}
		written[resolved] = dir
	}
	return ""
}

func (t *Target) refuse(path, problem, hint string) *ConfigError {
	at := t.where[path]
	return &ConfigError{Target: t.Name, File: at.file, Line: at.line, Key: withoutIndex(path), Problem: problem, Hint: hint}
}

// destination returns the path of file without symlinks in its parents, or the problem
// because of which root must not write it.
func (c checker) destination(file string, i Install) (resolved, problem, hint string) {
	dir, err := c.resolve(filepath.Dir(file))
	if c.unseen(err) {
		return file, "", ""
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", err.Error(), "create the directory first"
	}
	if err != nil {
		return "", err.Error(), rootOnlyHint
	}
	resolved = filepath.Join(dir, filepath.Base(file))
	if where := forbidden(resolved); where != "" {
		return "", file + " is in " + where, ""
	}
	info, err := os.Lstat(c.root + resolved)
	switch {
	case errors.Is(err, fs.ErrNotExist), c.unseen(err):
		return resolved, "", ""
	case err != nil:
		return "", file + ": " + durable.Cause(err).Error(), ""
	case i.Releases != "" && info.Mode()&fs.ModeSymlink == 0:
		return "", file + " is not a symlink", "move it to " + i.Releases + "/NAME, and make it a link to that"
	case i.Releases != "": // the directory to which it leads is checked below
	case info.Mode()&fs.ModeSymlink != 0:
		return "", file + " is a symlink", "name the file that it leads to"
	case i.Tree && !info.IsDir():
		return "", file + " is not a directory", ""
	case i.Tree && mounted(c.root+resolved):
		return "", file + " is a mount point, which cannot be replaced", "mount it on a directory above it, or name a directory below it"
	case !i.Tree && !info.Mode().IsRegular():
		return "", file + " is not a regular file", ""
	}
	err = c.rootOnly(resolved)
	if errors.Is(err, fs.ErrNotExist) {
		return "", file + " leads to nothing: " + err.Error(), "correct or remove the link"
	}
	if err != nil {
		return "", err.Error(), rootOnlyHint
	}
	return resolved, "", ""
}

// releases returns the path of a directory of releases without symlinks, or the problem
// because of which root must not write there.
func (c checker) releases(dir string) (resolved, problem, hint string) {
	// A name that no release has, because its directory is what counts.
	file, problem, hint := c.destination(filepath.Join(dir, " "), Install{})
	return filepath.Dir(file), problem, hint
}

// mounted reports whether a directory is on another file system than its parent.
func mounted(dir string) bool {
	var own, above unix.Stat_t
	return unix.Lstat(dir, &own) == nil && unix.Stat(filepath.Dir(dir), &above) == nil && own.Dev != above.Dev
}

const capabilitiesHint = "give the unit what it needs by AmbientCapabilities= and Group= instead"

// replaceable returns as a problem a property of file that its replacement would lose.
func (c checker) replaceable(file string) (problem, hint string) {
	info, err := os.Lstat(c.root + file)
	switch {
	case errors.Is(err, fs.ErrNotExist), c.unseen(err):
		return "", ""
	case err != nil:
		return file + ": " + durable.Cause(err).Error(), ""
	case info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0:
		return file + " is setuid or setgid", capabilitiesHint
	}
	for _, attribute := range []struct{ name, problem string }{
		{"security.capability", " has file capabilities"},
		{"system.posix_acl_access", " has an ACL"},
	} {
		has, err := hasAttribute(c.root+file, attribute.name)
		if err != nil {
			return file + ": " + err.Error(), ""
		}
		if has {
			return file + attribute.problem, capabilitiesHint
		}
	}
	return "", ""
}

// taken returns as a problem which other target the file belongs to, or "". A tree also
// must not contain anything of another target.
func (t *Target) taken(file string, isTree bool, all []*Target) (problem string) {
	for _, other := range all {
		if other.Name == t.Name {
			continue
		}
		for _, i := range other.Install {
			for _, p := range i.spots() {
				switch at := t.check.located(p.path); {
				case at == file, p.tree && within(file, at):
					return file + " belongs to target " + other.Name
				case isTree && within(at, file):
					return file + " contains " + p.path + " of target " + other.Name
				}
			}
		}
		for _, path := range other.Snapshot {
			switch of := t.check.located(path); {
			case within(file, of):
				return file + " belongs to target " + other.Name
			case isTree && within(of, file):
				return file + " contains " + path + " of target " + other.Name
			}
		}
	}
	return ""
}

// located returns path with its parents resolved. After an error it returns path
// unchanged: the check of that path reports the error.
func (c checker) located(path string) string {
	if dir, err := c.resolve(filepath.Dir(path)); err == nil {
		return filepath.Join(dir, filepath.Base(path))
	}
	return path
}

// aliases returns the names under which dpkg may know a file. A package built before /bin
// became a link to /usr/bin lists the file below /bin.
func aliases(written, resolved string) []string {
	names := []string{written, resolved}
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		if within(resolved, "/usr"+dir) {
			names = append(names, strings.TrimPrefix(resolved, "/usr"))
		}
	}
	return names
}

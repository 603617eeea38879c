package target

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
	"/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.cache", "/etc/fstab", "/etc/crypttab", "/etc/machine-id", "/boot",
	"/etc/apt", "/etc/dpkg", "/var/lib/dpkg", "/var/lib/apt", "/var/lib/systemd", "/etc/systemd/system.conf", "/etc/systemd/journald.conf",
	"/usr/lib/systemd/systemd", "/usr/lib/systemd/system-generators", "/etc/systemd/system-generators",
	"/usr/bin/machinemon-update", "/usr/bin/machinemon-release",
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
	if problem := t.check.oneName(t.Directories()); problem != "" {
		return t.refuse("install", problem, "write it in one way")
	}
	var installed []string // both resolved and as written: dpkg may know either
	paths := map[string]string{}
	for n, i := range t.Install {
		path := fmt.Sprintf("install[%d].to", n)
		if i.Listed {
			path = "install_manifest"
		}
		resolved, problem, hint := t.check.destination(i.To)
		if problem == "" {
			problem, hint = t.check.replaceable(resolved)
		}
		if problem == "" {
			problem = t.taken(resolved, all)
		}
		if problem != "" {
			return t.refuse(path, problem, hint)
		}
		for _, alias := range aliases(i.To, resolved) {
			installed = append(installed, alias)
			paths[alias] = path
		}
	}
	if err := t.checkSnapshots(all); err != nil {
		return err
	}
	file, pkg, err := t.check.packaged(installed)
	if err != nil {
		return t.refuse("", err.Error(), "")
	}
	if pkg != "" {
		return t.refuse(paths[file], file+" belongs to the Debian package "+pkg, "a program that apt installs is updated by apt")
	}
	return nil
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
func (c checker) destination(file string) (resolved, problem, hint string) {
	dir, err := c.resolve(filepath.Dir(file))
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
	case errors.Is(err, fs.ErrNotExist):
		return resolved, "", ""
	case err != nil:
		return "", file + ": " + durable.Cause(err).Error(), ""
	case info.Mode()&fs.ModeSymlink != 0:
		return "", file + " is a symlink", "name the file that it leads to"
	case !info.Mode().IsRegular():
		return "", file + " is not a regular file", ""
	}
	if err := c.rootOnly(resolved); err != nil {
		return "", err.Error(), rootOnlyHint
	}
	return resolved, "", ""
}

const capabilitiesHint = "give the unit what it needs by AmbientCapabilities= and Group= instead"

// replaceable returns as a problem a property of file that its replacement would lose.
func (c checker) replaceable(file string) (problem, hint string) {
	info, err := os.Lstat(c.root + file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
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

// taken returns as a problem which other target the file belongs to, or "".
func (t *Target) taken(file string, all []*Target) (problem string) {
	for _, other := range all {
		if other.Name == t.Name {
			continue
		}
		if slices.ContainsFunc(other.Install, func(i Install) bool { return t.check.located(i.To) == file }) ||
			slices.ContainsFunc(other.Snapshot, func(path string) bool { return within(file, t.check.located(path)) }) {
			return file + " belongs to target " + other.Name
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

// packaged returns the first of files that a Debian package owns, and the package's name.
// Both are "" if there is no such file, or no dpkg on this machine.
func (c checker) packaged(files []string) (file, pkg string, err error) {
	const info = "/var/lib/dpkg/info"
	entries, err := os.ReadDir(c.root + info)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("%s: %w", info, durable.Cause(err))
	}
	for _, e := range entries {
		pkg, ok := strings.CutSuffix(e.Name(), ".list")
		if !ok {
			continue
		}
		content, err := os.ReadFile(filepath.Join(c.root, info, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // dpkg replaced the list since ReadDir
		}
		if err != nil {
			return "", "", fmt.Errorf("%s/%s: %w", info, e.Name(), durable.Cause(err))
		}
		for _, file := range files {
			if bytes.Contains(content, []byte("\n"+file+"\n")) || bytes.HasPrefix(content, []byte(file+"\n")) {
				return file, pkg, nil
			}
		}
	}
	return "", "", nil
}

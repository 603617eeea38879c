// Package target turns the TOML files of a target into a validated Target.
//
// A target T consists of fragments: T.toml and the drop-ins T.toml.d/*.toml, in the
// vendor's directory (owned by packages) and in the administrator's (owned by the
// operator). This package only reads them.
//
// A file is trusted if only root can write it. Each fragment, each file that a fragment
// makes root run or read, and all their parents are checked before they are used. What a
// fragment says about the machine is not believed: CheckDestinations checks on the
// machine what a target may overwrite. A fragment may contain secrets by mistake, so
// errors name file, line and key, and never quote a value.
//
// parse turns each file into settings, merge combines those of all files, and a
// validation turns the result into a Target. A key's row in keys says what it may hold.
package target

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/calendar"
	"github.com/machinemon/machinemon-update/internal/version"
)

// Dirs are the directories of target files.
type Dirs struct {
	// Root is the file system to which Vendor, Admin and the paths in target files
	// belong; "" is the machine's own. Owners are checked below Root, and must be the
	// owner of Root, so that tests can use a directory of their own.
	Root string

	Vendor string // fragments of the packages
	Admin  string // fragments of the operator; they override Vendor's key by key

	Without string // a drop-in that is not read; "" for none
}

// DefaultDirs are the directories of an installed machinemon-update.
var DefaultDirs = Dirs{
	Vendor: "/usr/lib/machinemon-update/targets.d",
	Admin:  "/etc/machinemon-update/targets.d",
}

// A Target is one managed program: its systemd unit, the files it installs, the source of
// its releases and how health is judged. Load has validated it.
type Target struct {
	Name        string
	Description string
	Unit        string   // the service that runs the program; "" if none does. See [Target.Units]
	Also        []string // more services that run it
	Reload      bool     // whether they are reloaded, and not restarted

	AutoUpdateEnabled bool          // whether scheduled runs and directives may install
	CheckEvery        time.Duration // between scheduled checks, at least a minute
	// Window is when scheduled runs and directives may install; the zero Window is always.
	Window calendar.Window
	After  []string // the targets whose updates those wait for
	// Inhibit is a command that says whether those may install now; nil for none.
	Inhibit            []string
	ShutdownInhibitors bool // whether those wait for locks of logind against a shutdown
	FleetLock          FleetLock

	Source  Source
	Trust   Trust
	Install []Install // at least one; see also [Target.AddListed]
	Listing *Listing  // how a release may list more files; nil: it may not
	Hooks   Hooks
	Health  Health
	Notify  *Notify // how people are told of events, as [notify] of the target says, or that of all targets
	// Unnotified is why the latter cannot be used; "" if it can.
	Unnotified string

	Snapshot    []string // files and directories saved before the swap and restored by a rollback
	SnapshotMax int64    // bytes that all of Snapshot together may take on the disk
	// KeepPrevious says that the kept previous release is not given up to make room.
	KeepPrevious bool
	StopFirst    bool // whether the unit is stopped before Snapshot is saved and hooks run

	Fragments []string // the files it was loaded from; later ones override earlier ones

	check checker
	where settings // where each key was written, for errors
}

// FleetLock is the lock that one machine of a fleet holds while it installs, or a few do. Its
// zero value is none.
type FleetLock struct {
	URL   string // of a server with the protocol of FleetLock
	Group string // the machines that share the lock
}

// Hooks are commands of the operator; root runs each in its own unit. An empty command
// means that there is no hook.
type Hooks struct {
	FromRelease []string // its program is an entry of the archive; runs before PreSwap if the release has it
	Unsigned    bool     // whether FromRelease may run although nothing authenticates the publisher
	PreSwap     []string // runs after the snapshot, before the swap; its failure stops the attempt
	PostCommit  []string // runs after the verdict commit, which stands even if it fails

	names archNames
}

// The values of Source.Type.
const (
	SourceNone     = ""         // not configured yet
	SourceManifest = "manifest" // URL names the manifest
	SourceFile     = "file"     // Path names a directory, manifest or archive
	SourceGitHub   = "github"   // URL is GitHub's API, Repo the repository
	SourceForgejo  = "forgejo"  // the same, of a server with Forgejo or Gitea
	SourceGitLab   = "gitlab"   // the same, of GitLab
)

// Source is where releases come from.
type Source struct {
	Type            string
	URL             string // http or https, without user or password; "" until Resolve or Derive, where From is set
	Path            string // absolute
	InsecureSkipTLS bool   // do not verify the server's certificate
	CAFile          string // of the certificates that take the place of the system's; "" for none
	Proxy           string // URL; "" for none
	ProxyLoginFile  string // systemd hands its content to the fetcher; "" for none
	NoProxy         []string

	Versions  version.Range // the versions of releases that are taken from it
	Downgrade bool          // whether scheduled runs and directives may go to a lower version

	From *URLFrom // where root finds URL and InsecureSkipTLS; nil if the target file has the URL
	Read string   // the file that Resolve read; "" before

	// The fields below are set only for GitHub, Forgejo and GitLab.
	Repo      string // OWNER/NAME
	Asset     string // glob or address with placeholders; see AssetPattern and AssetURL
	Tag       string // of the release; "" is the latest
	TagPrefix string // of the program's tags; see VersionOf
	// Prereleases says whether prereleases are taken, too.
	Prereleases bool
	Checksums   string // glob or address with placeholders, see ChecksumsPattern and ChecksumsURL; "" is a file with a usual name
	TokenFile   string // systemd hands its content to the fetcher; "" for none

	names archNames
}

// The values of Trust.Mode.
const (
	TrustChecksum = "checksum"  // digests from the manifest, believed because of the transport it came over
	TrustTUF      = "tuf"       // signatures that Root leads to; the transport proves nothing
	TrustSigned   = "signature" // signatures by the publisher's keys in Key
)

// Trust is how a release is authenticated.
type Trust struct {
	Mode                 string
	Root                 string // the file that Pin reads; absolute
	Key                  string // the file that PublicKeys reads; absolute
	Product              string // the manifest's product must be this one; "" allows any, except under tuf
	AllowUnauthenticated bool   // whether a transport that anyone on the path can change is accepted
}

// AnyTransport reports whether releases may come over a transport that anyone can change.
func (t Trust) AnyTransport() bool { return t.AllowUnauthenticated || t.Mode == TrustTUF }

// ByVersion reports whether a release's version is all that shows that it is not an old
// one: the manifest, which has a sequence, is not signed.
func (t Trust) ByVersion() bool { return t.Mode == TrustSigned && t.Product == "" }

// Pin reads the root in which all trust under tuf begins.
func (t *Target) Pin() ([]byte, error) { return t.pinned(t.Trust.Root, maxPin) }

// PublicKeys reads the publisher's keys, by which all trust under signature begins.
func (t *Target) PublicKeys() ([]byte, error) {
	return t.pinned(t.Trust.Key, maxKeys)
}

// Unpinned begins the error of [Target.Pin] and [Target.PublicKeys] before the operator has
// pinned anything.
const Unpinned = "cannot trust any release of "

// pinned reads a file in which the operator has pinned what signs the releases.
func (t *Target) pinned(file string, most int64) ([]byte, error) {
	if _, err := os.Lstat(filepath.Join(t.check.root, file)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf(Unpinned+"%s: there is no %s (hint: sudo machinemon-update trust %s FILE --sha256 HEX)",
			t.Name, file, t.Name)
	}
	pin, wrong := t.check.read(file, most, "everybody may read it: chmod 0644")
	if wrong != nil {
		wrong.Target = t.Name
		return nil, wrong
	}
	return pin, nil
}

// Install is one file of the release, or a directory with all its files, and its place on
// this machine.
type Install struct {
	From     string       // name in the archive, with placeholders, or a glob; see Name, Find and Files
	To       string       // absolute
	Mode     *fs.FileMode // permission bits; nil keeps the existing file's
	Owner    *string      // name or number; nil keeps the existing file's
	Group    *string      // name or number; nil keeps the existing file's
	Optional bool         // whether a release without it is complete
	Listed   bool         // the release lists it, not the target file
	Tree     bool         // it is a directory, whose name in From ends with /
	Keep     []string     // of a tree: the names below To that stay what they are
	Releases string       // of a tree: To is a link to a directory below this one; "" if To is the tree itself

	names archNames
}

// Dir returns the directory to which the file, or the tree, is written.
func (i Install) Dir() string {
	if i.Releases != "" {
		return i.Releases
	}
	return filepath.Dir(i.To)
}

// Directories returns, sorted and once each, the directories in which root writes during
// an update of the target. The data and the programs of other users are not among them:
// only those users write there.
func (t *Target) Directories() []string {
	var dirs []string
	for _, i := range t.Install {
		if !t.check.ofUser(i.To) {
			dirs = append(dirs, filepath.Dir(i.To), i.Dir())
		}
	}
	for _, path := range t.Snapshot {
		if dir := t.check.snapshotDir(path); dir != "" {
			dirs = append(dirs, dir)
		}
	}
	if t.Listing != nil {
		for _, lt := range t.Listing.Types {
			dirs = append(dirs, lt.Directory)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// Health is how a trial is judged.
type Health struct {
	Timeout time.Duration // all probes must pass within it
	Settle  time.Duration // all probes must then keep passing this long, without a restart

	// Main is the installed file that the unit's main process must run. "" means that the
	// main process is a wrapper, whose file says nothing about the release.
	Main string

	VersionCommand []string // its output must contain the new version; may be nil
	VersionPattern string   // selects the version in that output; "" for the first one
	Probes         []Probe
}

// LongestTry returns the longest time that a probe sets for a try of its own.
func (h Health) LongestTry() (most time.Duration) {
	for _, p := range h.Probes {
		most = max(most, p.Timeout)
	}
	return most
}

// Printed returns what VersionCommand printed, to be searched for a version.
func (h Health) Printed(text string) version.Output {
	return version.Output{Text: text, Program: filepath.Base(h.VersionCommand[0]), Pattern: h.VersionPattern}
}

// ProbeKeys returns the keys of the target's probes.
func (t *Target) ProbeKeys() []string {
	var keys []string
	for _, p := range t.Health.Probes {
		keys = append(keys, p.Key())
	}
	return keys
}

// ProbeFiles returns, sorted and once each, the files of the target's probes that systemd
// hands to the gate.
func (t *Target) ProbeFiles() []string {
	var files []string
	for _, p := range t.Health.Probes {
		files = append(files, p.Files()...)
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// HasCommands reports whether the gate runs commands of the target.
func (t *Target) HasCommands() bool {
	return len(t.Health.VersionCommand) > 0 || slices.ContainsFunc(t.Health.Probes, func(p Probe) bool { return len(p.Command) > 0 })
}

// A ConfigError is a mistake in a target's configuration that the operator can correct.
// It disables only this target.
type ConfigError struct {
	Target  string
	File    string // "" when no file is at fault
	Line    int    // 0 when no line is at fault
	Key     string // dotted, "" when no key is at fault
	Problem string
	Hint    string // what to do about it; "" if Problem says so
}

// aboutWriters reports whether others than root can write a file.
func (e *ConfigError) aboutWriters() bool { return e != nil && e.Hint == rootOnlyHint }

// Error returns one line, with the hint at its end.
func (e *ConfigError) Error() string {
	var b strings.Builder
	b.WriteString("cannot use target " + e.Target + ": ")
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d", e.Line)
		}
		b.WriteString(": ")
	}
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Problem)
	if e.Hint != "" {
		b.WriteString(" (hint: " + e.Hint + ")")
	}
	return b.String()
}

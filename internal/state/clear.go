package state

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// damaged is the suffix of a status file that was put aside.
const damaged = ".damaged"

// lasting are the files that a role keeps in its directory from one attempt to the next.
var lasting = map[Role][]string{
	RoleFetch:  {"status.json", "status.json" + damaged, "manifest.json", "trust.json", "partial", "partial.json", fleetLockName},
	RoleVerify: {"status.json", "status.json" + damaged},
}

// passing are the files that belong to one attempt, and what a killed worker leaves.
var passing = append([]string{"fallback.json", handoverName}, temporaries...)

// Foreign is what root removed from a role's directory because the role's program would
// not have left it there.
type Foreign struct {
	Time time.Time `json:"time"`
	What string    `json:"what"`
}

// Clear removes from a role's directory, between two attempts, all that the role does not
// keep there: the spool with its entries, files of an earlier attempt, and what a
// taken-over worker may have put in their place to stop later attempts. It returns what the
// role's program would not have left. It does not follow links, and it removes also what
// its caller could not use: after an error, the rest is gone. It works for a bounded time:
// what it then leaves is in no role's way, and the next attempt continues.
func (t Tree) Clear(r Role, target string) (foreign []string, err error) {
	return t.clear(r, target, func(c *clearing) {
		// First what the role will use: there may be a million other names.
		for _, name := range slices.Concat(c.lasting, passing, []string{"ready"}) {
			c.judge(name)
		}
		until := time.Now().Add(clearFor)
		for name, err := range durable.NamesIn(c.root) {
			if err == nil && time.Now().After(until) {
				err = fmt.Errorf("other names are still there after %s", clearFor)
			}
			if err != nil {
				c.fail(".", err)
				break
			}
			c.judge(name)
		}
		c.readable(t, r, target)
	})
}

// ClearSpool removes a role's spool in the same way, and nothing else.
func (t Tree) ClearSpool(r Role, target string) (foreign []string, err error) {
	return t.clear(r, target, func(c *clearing) { c.judge("ready") })
}

func (t Tree) clear(r Role, target string, do func(*clearing)) (foreign []string, err error) {
	root, err := os.OpenRoot(t.Dir(r, target))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot clear the directory of %s: %w", target, err)
	}
	defer root.Close()
	c := &clearing{root: root, dir: t.Dir(r, target), lasting: lasting[r]}
	do(c)
	if c.more > 0 {
		c.foreign = append(c.foreign, fmt.Sprintf("and %d more", c.more))
	}
	return c.foreign, c.failed
}

// clearing is the work of [Tree.Clear] on one directory.
type clearing struct {
	root    *os.Root
	dir     string
	lasting []string
	foreign []string // at most mostNamed
	more    int      // how many others there are
	slow    bool     // the time for removals is used up
	failed  error
}

// clearFor is how long [Tree.Clear] removes a role's files one by one.
var clearFor = 20 * time.Second

// mostNamed is how many foreign files are named; one that planted thousands must not fill
// the log.
const mostNamed = 5

// judge leaves a file of the role alone, and removes everything else.
func (c *clearing) judge(name string) {
	info, err := c.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		c.fail(name, err)
		return
	}
	if slices.Contains(c.lasting, name) && usable(info) {
		return
	}
	switch {
	case name == "ready" && info.IsDir():
		c.entries(info)
	case strings.HasPrefix(name, aside): // reported when it was put aside
	case !info.Mode().IsRegular() || !slices.ContainsFunc(passing, func(p string) bool { return strings.HasPrefix(name, p) }):
		c.note(name, info)
	}
	c.remove(name)
}

// usable reports whether the file is one that its owner can read and replace.
func usable(info fs.FileInfo) bool { return info.Mode().IsRegular() && info.Mode()&0o600 == 0o600 }

// entries notes what is in the spool beside entries of its producer and its link to one.
func (c *clearing) entries(ready fs.FileInfo) {
	spool, err := durable.OpenDirIn(c.root, "ready")
	if err != nil {
		c.fail("ready", err)
		return
	}
	defer spool.Close()
	for name, err := range (&Spool{root: spool}).first() {
		if err != nil {
			c.fail("ready", err)
			return
		}
		info, err := spool.Lstat(name)
		link := name == nextLink && err == nil && info.Mode().Type() == fs.ModeSymlink
		if err == nil && !link && (!info.IsDir() || owner(info) != owner(ready) || !AttemptID(strings.TrimPrefix(name, ".")).Valid()) {
			c.note("ready/"+name, info)
		}
	}
}

func owner(info fs.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }

func (c *clearing) note(name string, info fs.FileInfo) {
	if len(c.foreign) == mostNamed {
		c.more++
		return
	}
	c.foreign = append(c.foreign, fmt.Sprintf("%.60s (%s)", Printable(name), kind(info)))
}

// kind describes a file of another kind, mode or owner than the role's program makes.
func kind(info fs.FileInfo) string {
	what := "a file"
	switch info.Mode().Type() {
	case fs.ModeDir:
		what = "a directory"
	case fs.ModeSymlink:
		what = "a symbolic link"
	case fs.ModeNamedPipe:
		what = "a FIFO"
	case fs.ModeSocket:
		what = "a socket"
	}
	return fmt.Sprintf("%s of user %d, mode %04o", what, owner(info), info.Mode().Perm())
}

// aside is the prefix of names under which things wait for their removal.
const aside = ".foreign-"

// remove takes a name away, at once. What it leads to may be too large for that.
func (c *clearing) remove(name string) {
	if !strings.HasPrefix(name, aside) {
		away := aside + rand.Text()
		if err := durable.RenameIn(c.root, name, away); err != nil {
			c.fail(name, err)
			return
		}
		name = away
	}
	if c.slow {
		return
	}
	if err := durable.RemoveTree(c.root, name); err != nil {
		c.slow = true // the next attempt continues
		c.fail(name, err)
	}
}

// fail remembers the first error only: there may be one for each of thousands of files.
func (c *clearing) fail(name string, err error) {
	if c.failed == nil {
		c.failed = fmt.Errorf("cannot clear %s of %.60q: %w", c.dir, name, durable.Cause(err))
	}
}

// readable puts aside a status that cannot be read, and removes metadata that this program does
// not know. Otherwise the role could record and verify nothing any more.
func (c *clearing) readable(t Tree, r Role, target string) {
	if _, err := t.Status(r, target); durable.Faulty(err) {
		c.fail("status.json", err) // its content may be good
	} else if err != nil {
		c.foreign = append(c.foreign, Line(err.Error()))
		if err := durable.RenameIn(c.root, "status.json", "status.json"+damaged); err != nil {
			c.fail("status.json", err)
		}
	}
	var none struct{}
	err := readLarge(t.trust(r, target), maxTrust, &none)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrDamaged) && !durable.Faulty(err) { // the role replaces a damaged file
		c.foreign = append(c.foreign, Line(err.Error()))
		c.remove("trust.json")
	}
}

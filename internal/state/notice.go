package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/pattern"
)

// Notice is an event of which the operator is told. It waits in the spool of its target,
// once for each way in which it is told, until it has been.
type Notice struct {
	Format  int       `json:"format"`
	Event   string    `json:"event"`
	Target  string    `json:"target"`
	Host    string    `json:"host"`
	Time    time.Time `json:"time"`
	Attempt AttemptID `json:"attempt,omitempty"`
	From    string    `json:"from,omitempty"`
	Version string    `json:"version,omitempty"`
	Result  Result    `json:"result,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	After   string    `json:"after,omitempty"` // how the version from before fares
	Said    []string  `json:"said,omitempty"`  // as in [Attempt]
}

// Waiting is a notice in the spool, under its name there.
type Waiting struct {
	Name string
	Notice
}

// Told is what root has already made notices of.
type Told struct {
	Format  int       `json:"format"`
	Attempt AttemptID `json:"attempt"` // the last one
	Result  Result    `json:"result"`
	Time    time.Time `json:"time"`
	// Bad is the result of the failure that has no end yet; "" if all is well.
	Bad        Result `json:"bad,omitempty"`
	BadVersion string `json:"bad_version,omitempty"`
	Expiring   string `json:"expiring,omitempty"` // the signature whose end was told
}

const (
	mostNotices = 30            // of a target; the oldest are dropped
	maxNotice   = 64 << 10      // bytes
	noticeDir   = "notify"      // below [Tree.Var]
	noticeWay   = `\.([a-z]+)$` // of a name
)

var noticeName = pattern.New(`^[0-9a-z-]{1,80}` + noticeWay)

// Notices returns the spool of a target's notices. It belongs to root and to the group of
// the sender, which may remove what is in it.
func (t Tree) Notices(target string) string {
	return filepath.Join(t.Var, noticeDir, target, "ready")
}

func (t Tree) told(target string) string {
	return filepath.Join(t.Var, noticeDir, target, "told.json")
}

// MakeNotices makes the spool of a target's notices, for a sender with this group.
func (t Tree) MakeNotices(target string, gid int) error {
	dir := t.Notices(target)
	err := t.makeNotices(target)
	if err == nil {
		err = os.Chown(dir, -1, gid)
	}
	if err == nil {
		err = os.Chmod(dir, 0o770)
	}
	if err != nil {
		return fmt.Errorf("cannot make %s: %w", dir, durable.Cause(err))
	}
	return nil
}

func (t Tree) makeNotices(target string) error {
	for _, dir := range []struct {
		path string
		mode fs.FileMode
	}{{filepath.Dir(t.Notices(target)), 0o755}, {t.Notices(target), 0o700}} {
		err := os.Mkdir(dir.path, dir.mode)
		if err == nil {
			err = os.Chmod(dir.path, dir.mode)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// AddNotice puts a notice into the spool, durably. One of the same attempt and event takes
// the place of an earlier one.
func (t Tree) AddNotice(way string, n Notice) error {
	if err := t.makeNotices(n.Target); err != nil {
		return fmt.Errorf("cannot make %s: %w", t.Notices(n.Target), durable.Cause(err))
	}
	n.Format = Format
	id := n.Attempt
	if id == "" {
		id = NewAttempt()
	}
	event := regexp.MustCompile(`[^a-z]`).ReplaceAllString(n.Event, "-")
	return writeJSON(filepath.Join(t.Notices(n.Target), string(id)+"-"+event+"."+way), n)
}

// WaitingNotices returns the notices that wait to be told in one way, the oldest first. What is
// no notice is removed, and so are the oldest of too many.
func (t Tree) WaitingNotices(target, way string) ([]Waiting, error) {
	root, err := os.OpenRoot(t.Notices(target))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the notices of %s: %w", target, durable.Cause(err))
	}
	defer root.Close()
	var names []string
	for name, err := range durable.NamesIn(root) {
		if err != nil {
			return nil, fmt.Errorf("cannot list the notices of %s: %w", target, durable.Cause(err))
		}
		if m := noticeName.FindStringSubmatch(name); m != nil && m[1] == way {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var all []Waiting
	for i, name := range names {
		n, err := readNotice(root, name)
		if err != nil || i < len(names)-mostNotices {
			if rerr := root.RemoveAll(name); rerr != nil {
				return nil, fmt.Errorf("cannot remove a notice of %s: %w", target, durable.Cause(rerr))
			}
			continue
		}
		n.Target = target
		all = append(all, Waiting{name, n})
	}
	return all, nil
}

func readNotice(root *os.Root, name string) (Notice, error) {
	var n Notice
	f, err := durable.OpenRegularIn(root, name)
	if err != nil {
		return n, err
	}
	defer f.Close()
	data, err := durable.ReadAll(f, maxNotice)
	if err == nil {
		err = json.Unmarshal(data, &n)
	}
	if n.Format > Format {
		err = ErrDamaged
	}
	n.printable()
	return n, err
}

// printable makes the texts fit for a message: some are a stranger's.
func (n *Notice) printable() {
	for _, text := range []*string{&n.Event, &n.Target, &n.Host, &n.From, &n.Version, &n.Reason, &n.After, (*string)(&n.Attempt), (*string)(&n.Result)} {
		*text = Line(*text)
	}
	n.Said = n.Said[max(0, len(n.Said)-mostSaid):]
	for i := range n.Said {
		n.Said[i] = Line(n.Said[i])
	}
}

// mostSaid is how many lines of a program a notice has.
const mostSaid = 20

// DropNotice removes a notice from the spool.
func (t Tree) DropNotice(target string, w Waiting) error {
	err := os.Remove(filepath.Join(t.Notices(target), w.Name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove a notice of %s: %w", target, durable.Cause(err))
	}
	return nil
}

// Told returns what root has made notices of, or nil if it never has.
func (t Tree) Told(target string) (*Told, error) { return readIfThere[Told](t.told(target)) }

// SetTold records what root has made notices of.
func (t Tree) SetTold(target string, told Told) error {
	if err := t.makeNotices(target); err != nil {
		return fmt.Errorf("cannot make %s: %w", t.Notices(target), durable.Cause(err))
	}
	told.Format = Format
	return writeJSON(t.told(target), told)
}

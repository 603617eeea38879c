package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// trusted is the JSON of trust.
type trusted struct {
	Target  string    `json:"target"`
	Root    string    `json:"root"` // where the root is stored
	Version int64     `json:"version"`
	SHA256  string    `json:"sha256"`
	Expires time.Time `json:"expires"`
}

var hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// pin makes a publisher's root the beginning of trust in a target's releases. sum is its
// digest, which the operator has from another place than the file: without it, anyone
// that provides the file could vouch for it.
func (a *app) pin(args []string, sum string) error {
	name, file := args[0], args[1]
	t, err := a.load(name)
	if err != nil {
		return err
	}
	root, err := readRoot(file)
	if err != nil {
		return err
	}
	signed, err := trust.CheckRoot(root)
	if err != nil {
		return state.Fail(state.ResultRefused, "cannot trust %s: %w", file, err)
	}
	is, sum := manifest.Digest(root), strings.ToLower(sum)
	switch {
	case sum == "":
		return cli.Usagef("cannot trust %s unseen: its sha256 is %s (hint: compare that with what its publisher says in another place, "+
			"then: machinemon-update trust %s %s --sha256 %s)", file, is, name, file, is)
	case !hexDigest.MatchString(sum):
		return cli.Usagef("cannot use --sha256: it is not 64 hex digits")
	case sum != is:
		return state.Fail(state.ResultRefused, "cannot trust %s: its sha256 is %s, not %s", file, is, sum)
	}
	if err := a.setPin(t, root); err != nil {
		return err
	}
	text := fmt.Sprintf("%s: trusts %s and what follows it, sha256 %s\n", name, signed, is)
	if t.Trust.Mode == target.TrustTUF {
		// Scheduled attempts may back off because there was no root.
		text += fmt.Sprintf("  its source is asked by the schedule, or now: machinemon-update check %s\n", name)
	} else {
		text += fmt.Sprintf("  nothing is verified with it yet (hint: trust.mode = \"tuf\" and trust.product in %s/%s.toml)\n", a.targets.Admin, name)
	}
	return a.print(trusted{name, t.Trust.Root, signed.Version, is, signed.Expires.UTC()}, text)
}

func readRoot(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, errors.Unwrap(err))
	}
	defer f.Close()
	root, err := durable.ReadAll(f, trust.MaxRoot)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, err)
	}
	return root, nil
}

// setPin writes the root where attempts read it, and reads it as they do. What is known
// from a chain with another root no longer counts; the sequence floor stays.
func (a *app) setPin(t *target.Target, root []byte) error {
	release, err := a.tree.Lock(t.Name)
	if err != nil {
		return err
	}
	defer release()
	at := filepath.Join(a.targets.Root, t.Trust.Root)
	if err := os.Mkdir(filepath.Dir(at), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot make %s: %w", filepath.Dir(at), errors.Unwrap(err))
	}
	if err := durable.WriteFile(at, root, 0o644); err != nil {
		return err
	}
	_, err = t.Pin()
	return err
}

// status warns this long before signatures expire. The publisher's timer renews snapshot
// and timestamp each day, for a week; a person signs the other roles.
const (
	noticeOnline = 3 * 24 * time.Hour
	noticePerson = 7 * 24 * time.Hour
)

// expiring returns a warning about the signature that expires first, if it has expired or
// will soon; else "".
func expiring(signed []state.Signed, now time.Time) string {
	var first *state.Signed
	for i, s := range signed {
		notice := noticePerson
		if s.Role == string(trust.RoleTimestamp) || s.Role == string(trust.RoleSnapshot) {
			notice = noticeOnline
		}
		if now.Add(notice).After(s.Expires) && (first == nil || s.Expires.Before(first.Expires)) {
			first = &signed[i]
		}
	}
	switch {
	case first == nil:
		return ""
	case now.After(first.Expires):
		return fmt.Sprintf("%s v%d has expired on %s: nothing is installed until the publisher signs again", first.Role, first.Version, first.Expires.Local().Format(minutes))
	}
	return fmt.Sprintf("%s v%d expires on %s: nothing is installed after that unless the publisher signs again", first.Role, first.Version, first.Expires.Local().Format(minutes))
}

package trust

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/version"
)

// Verifier verifies the releases of a target for one role: from the role's stored
// [State], against this machine's [Terms]. Its errors are a [state.Failure] with
// [state.ResultRefused] if the release is at fault.
type Verifier struct {
	Tree     state.Tree
	Target   string                 // its name
	Pin      func() ([]byte, error) // reads the pinned root
	Role     state.Role             // the role that owns the State; "" for no State, but the swapper's roots
	ReadOnly bool                   // do not store the State; each role may store only its own
	Terms    Terms                  // its Floor is read from Tree
	From     string                 // where the release is from, for messages
}

// Verify verifies the manifest raw by metadata that [Metadata.Encode] made. Beside
// an error it returns the manifest if it is signed, but not for this machine.
func (v Verifier) Verify(metadata, raw []byte) (*manifest.Manifest, error) {
	b, err := Decode(metadata, raw)
	if err != nil {
		return nil, v.refuse("trust", err)
	}
	r, _, err := v.run(func(c Client) (*Release, State, error) { return c.Check(b) })
	if r == nil {
		return nil, err
	}
	return r.Manifest, err
}

// Collect downloads a release and verifies it. metadata is for the next roles' Verify.
func (v Verifier) Collect(get Get) (r *Release, metadata []byte, err error) {
	var swapper State
	if err := v.Tree.Trust(state.RoleSwap, v.Target, &swapper); err != nil {
		return nil, nil, err
	}
	r, s, err := v.run(func(c Client) (*Release, State, error) {
		c.addRoots(swapper)
		return c.Collect(get)
	})
	if err != nil {
		return nil, nil, err
	}
	if metadata, err = s.Metadata.Encode(); err != nil {
		return nil, nil, v.refuse("use", err)
	}
	return r, metadata, nil
}

func (v Verifier) run(check func(Client) (*Release, State, error)) (*Release, State, error) {
	pin, err := v.Pin()
	if err != nil {
		return nil, State{}, state.Refused("%w", err)
	}
	c := Client{Pin: pin, Clock: time.Now(), Built: Built()}
	if v.Role != "" {
		if err := v.Tree.Trust(v.Role, v.Target, &c.State); err != nil {
			return nil, State{}, err
		}
	}
	r, s, err := check(c)
	if !v.ReadOnly {
		if err := v.Tree.SetTrust(v.Role, v.Target, s); err != nil {
			return nil, s, err
		}
	}
	if errors.As(err, new(*Error)) {
		err = v.refuse("trust", err)
	}
	if err != nil {
		return nil, s, err
	}
	if v.Terms.Floor, err = v.Tree.Floor(v.Target); err != nil {
		return r, s, err
	}
	if err := v.Terms.Check(r.Manifest); err != nil {
		return r, s, v.refuse("use", err)
	}
	return r, s, nil
}

func (v Verifier) refuse(act string, err error) error {
	hint := ""
	if Expired(err) {
		hint = " (hint: its publisher must sign it again; the next check will notice)"
	}
	return state.Refused("cannot %s %s: %w%s", act, v.From, err, hint)
}

// Terms is what a machine requires of a signed manifest beyond its signature.
type Terms struct {
	Product   string // of the target; its publisher may sign other products, too
	Platform  string // of this machine
	Floor     int64  // the highest sequence committed here; 0 if none
	Installed string // the version here; "" if unknown
}

// Check returns an error if the manifest is not for this machine. It accepts a sequence
// equal to the floor, because that release may have to be repaired.
func (t Terms) Check(m *manifest.Manifest) error {
	p, err := m.Platform(t.Platform)
	switch {
	case m.Product != t.Product:
		return fmt.Errorf("it is of product %q, this target takes %q", m.Product, t.Product)
	case m.Sequence < 1:
		return fmt.Errorf("it has no sequence")
	case m.Sequence < t.Floor:
		return fmt.Errorf("its sequence %d is older than %d, which was committed here", m.Sequence, t.Floor)
	case err != nil:
		return err
	case len(p.Contents) == 0:
		return fmt.Errorf("it does not say what is in %s", p.File)
	case version.Lower(t.Installed, m.MinVersion):
		return fmt.Errorf("it needs at least %s first, and %s is installed (hint: install %[1]s or a later version before it, by machinemon-update import or by hand)", m.MinVersion, t.Installed)
	}
	return nil
}

// built is set by the linker: the time of the newest entry of debian/changelog, in
// seconds since 1970. It is the same in every build of a version.
var built string

// Built returns when this program was built, for [Client]; the zero time if the
// linker did not set it.
func Built() time.Time {
	seconds, err := strconv.ParseInt(built, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

package trust

import (
	"errors"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
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
	metadata, err = Metadata{Roots: s.Roots, Timestamp: s.Timestamp, Snapshot: s.Snapshot, Targets: s.Targets}.Encode()
	if err != nil {
		return nil, nil, v.refuse("use", err)
	}
	return r, metadata, nil
}

func (v Verifier) run(check func(Client) (*Release, State, error)) (*Release, State, error) {
	pin, err := v.Pin()
	if err != nil {
		return nil, State{}, state.Fail(state.ResultRefused, "%w", err)
	}
	c := Client{Pin: pin, Clock: time.Now(), Built: Built()}
	if v.Role != "" {
		err = v.Tree.Trust(v.Role, v.Target, &c.State)
	}
	if err != nil {
		return nil, State{}, err
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
	return state.Fail(state.ResultRefused, "cannot %s %s: %w%s", act, v.From, err, hint)
}

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
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/signature"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// trusted is the JSON of trust. For a target with trust.mode "signature" it has Key and
// Keys in place of Root, Version and Expires.
type trusted struct {
	Target  string     `json:"target"`
	Root    string     `json:"root,omitempty"` // where the root is stored
	Version int64      `json:"version,omitempty"`
	SHA256  string     `json:"sha256"`
	Expires *time.Time `json:"expires,omitempty"`
	Key     string     `json:"key,omitempty"` // where the keys are stored
	Keys    []string   `json:"keys,omitempty"`
}

var hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// pin makes a publisher's root, or its public keys, the beginning of trust in a target's
// releases. sum is the file's digest, which the operator has from another place than the
// file: without it, anyone that provides the file could vouch for it.
func (a *app) pin(args []string, sum string) error {
	name, file := args[0], args[1]
	t, err := a.load(name)
	if err != nil {
		return err
	}
	b, err := readPin(file)
	if err != nil {
		return err
	}
	in, what, at := trusted{Target: name, SHA256: manifest.Digest(b)}, "", t.Trust.Root
	if t.Trust.Mode == target.TrustSigned {
		at = t.Trust.Key
		var keys signature.Keys
		keys, err = signature.ParseKeys(b)
		in.Key, in.Keys = at, keys.IDs()
		what = strings.Join(in.Keys, " and ")
	} else {
		var signed trust.Signed
		signed, err = trust.CheckRoot(b)
		expires := signed.Expires.UTC()
		in.Root, in.Version, in.Expires = at, signed.Version, &expires
		what = signed.String()
	}
	if err != nil {
		hint := ""
		if _, other := signature.ParseKeys(b); t.Trust.Mode == target.TrustChecksum && other == nil {
			hint = fmt.Sprintf(" (hint: it has public keys: write trust.mode = \"signature\" in %s/%s.toml first)", a.targets.Admin, name)
		}
		return state.Fail(state.ResultRefused, "cannot trust %s: %w%s", file, err, hint)
	}
	switch sum := strings.ToLower(sum); {
	case sum == "":
		return cli.Usagef("cannot trust %s unseen: it has %s, and its sha256 is %s (hint: compare that with what its publisher says in another place, "+
			"then: sudo machinemon-update trust %s %s --sha256 %s)", file, what, in.SHA256, name, file, in.SHA256)
	case !hexDigest.MatchString(sum):
		return cli.Usagef("cannot use --sha256: it is not 64 hex digits")
	case sum != in.SHA256:
		return state.Fail(state.ResultRefused, "cannot trust %s: its sha256 is %s, not %s", file, in.SHA256, sum)
	}
	if err := a.setPin(t, at, b); err != nil {
		return err
	}
	text := fmt.Sprintf("%s: trusts %s, sha256 %s\n", name, what, in.SHA256)
	if in.Root != "" {
		text = fmt.Sprintf("%s: trusts %s and what follows it, sha256 %s\n", name, what, in.SHA256)
	}
	if t.Trust.Mode == target.TrustChecksum {
		text += fmt.Sprintf("  nothing is verified with it yet (hint: trust.mode = \"tuf\" and trust.product in %s/%s.toml)\n", a.targets.Admin, name)
	} else {
		// Scheduled attempts may back off because there was no root.
		text += fmt.Sprintf("  its source is asked by the schedule, or now: machinemon-update check %s\n", name)
	}
	return a.print(in, text)
}

// pin reads what the operator has pinned; it is nil under checksum.
func pin(t *target.Target) ([]byte, error) {
	switch t.Trust.Mode {
	case target.TrustChecksum:
		return nil, nil
	case target.TrustSigned:
		return t.PublicKeys()
	}
	return t.Pin()
}

func readPin(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, errors.Unwrap(err))
	}
	defer f.Close()
	b, err := durable.ReadAll(f, max(trust.MaxRoot, signature.MaxKeys))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, err)
	}
	return b, nil
}

// setPin writes root or keys where attempts read them, and reads them as they do. What is known
// from a chain with another root no longer counts; the sequence floor stays.
func (a *app) setPin(t *target.Target, file string, content []byte) error {
	release, err := a.tree.Lock(t.Name)
	if err != nil {
		return err
	}
	defer release()
	at := filepath.Join(a.targets.Root, file)
	if err := os.Mkdir(filepath.Dir(at), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot make %s: %w", filepath.Dir(at), errors.Unwrap(err))
	}
	if err := durable.WriteFile(at, content, 0o644); err != nil {
		return err
	}
	if t.Trust.Mode == target.TrustChecksum {
		_, err = t.Pin()
	} else {
		_, err = pin(t)
	}
	return err
}

// expiring returns a warning about the signature that expires first, if it has expired or
// will soon; else "".
func expiring(signed []state.Signed, now time.Time) string {
	_, warning := policy.Expiring(signed, now)
	return warning
}

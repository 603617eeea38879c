package signature

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// Verifier verifies the releases of a target for one role. Its errors are a
// [state.Failure] with [state.ResultRefused] if the release is at fault.
type Verifier struct {
	Tree      state.Tree
	Target    *target.Target
	Platform  string // of this machine
	Installed string // the version here; "" if unknown
	From      string // where the release is from, for messages
	Clock     time.Time
}

// Archive is what remains to be checked of a release whose manifest is not signed.
type Archive struct {
	// Unnamed reports that nothing signed has the archive's name, and so its version: the
	// program itself must say that.
	Unnamed bool

	check func(archive io.Reader) error
}

// Check checks an archive, of the manifest's size and digest, to its end.
func (a *Archive) Check(archive io.Reader) error { return a.check(archive) }

// Manifest verifies a manifest by evidence that [Evidence.Encode] made. If it is not the
// manifest that is signed, the caller has to check its own copy of the archive, too. Beside
// an error it returns the manifest if it is signed, but not for this machine.
func (v Verifier) Manifest(evidence, raw []byte) (*manifest.Manifest, *Archive, error) {
	e, err := decode(evidence)
	if err != nil {
		return nil, nil, state.Refused("cannot verify %s: %w", v.From, err)
	}
	keys, err := v.keys()
	if err != nil {
		return nil, nil, state.Refused("%w", err)
	}
	signed := signing{v, e, keys}
	if (v.Target.Trust.Product != "") != (e.Of == OfManifest) {
		return nil, nil, signed.refuse(errors.New(`the manifest must be signed if trust.product is set, and only then`))
	}
	if e.Of == OfManifest {
		m, err := signed.manifest(raw)
		return m, nil, err
	}
	m, p, err := signed.bare(raw)
	if err != nil {
		return nil, nil, signed.refuse(err)
	}
	a := &Archive{}
	switch e.Of {
	case OfChecksums:
		a.check, err = signed.checksums(p)
	case OfArchive:
		a.Unnamed, a.check, err = signed.archive(p)
	default:
		err = errors.New("nothing of it is signed")
	}
	if err != nil {
		return nil, nil, signed.refuse(err)
	}
	return m, a, nil
}

func (v Verifier) keys() (Keys, error) {
	b, err := v.Target.PublicKeys()
	if err != nil {
		return Keys{}, err
	}
	k, err := ParseKeys(b)
	if err != nil {
		err = fmt.Errorf("cannot use %s: %w", v.Target.Trust.Key, err)
	}
	return k, err
}

// now is not before the program's build: a clock that was set back does not make an
// expired key valid.
func (v Verifier) now() time.Time {
	if built := trust.Built(); built.After(v.Clock) {
		return built
	}
	return v.Clock
}

// signing is one check of a Verifier.
type signing struct {
	Verifier
	e    Evidence
	keys Keys
}

// refuse returns the error about the signed file.
func (s signing) refuse(err error) error {
	hint := ""
	if _, ok := errors.AsType[*unpinned](err); ok {
		hint = fmt.Sprintf(" (hint: pinned are the keys in %s; add this one if its publisher says elsewhere that it is theirs)", s.Target.Trust.Key)
	}
	file := s.e.File
	if file == "" {
		file = "it"
	}
	return state.Refused("cannot verify %.100s of %s: %w%s", state.Printable(file), s.From, err, hint)
}

// manifest verifies a signed manifest.
func (s signing) manifest(raw []byte) (*manifest.Manifest, error) {
	if _, err := s.keys.verify(bytes.NewReader(raw), s.e.Signature, s.now()); err != nil {
		return nil, s.refuse(err)
	}
	m, err := manifest.Parse(raw)
	if err != nil {
		return nil, s.refuse(err)
	}
	floor, err := s.Tree.Floor(s.Target.Name)
	if err != nil {
		return m, err
	}
	terms := trust.Terms{Product: s.Target.Trust.Product, Platform: s.Platform, Floor: floor, Installed: s.Installed}
	if err := terms.Check(m); err != nil {
		return m, state.Refused("cannot use %s: %w", s.From, err)
	}
	return m, nil
}

// bare reads a manifest that is not signed. Whatever is in it beside the archive could be
// an attacker's, such as a sequence that no later release reaches.
func (s signing) bare(raw []byte) (*manifest.Manifest, manifest.Platform, error) {
	var none manifest.Platform
	m, err := manifest.Parse(raw)
	if err != nil {
		return nil, none, err
	}
	p, err := m.Platform(s.Platform)
	if err != nil {
		return nil, none, err
	}
	p = manifest.Platform{File: p.File, SHA256: p.SHA256, SHA512: p.SHA512, Size: p.Size}
	own := manifest.Manifest{Schema: manifest.Schema, Version: m.Version, Platforms: map[string]manifest.Platform{s.Platform: p}}
	expected, err := own.Marshal()
	if err != nil {
		return nil, none, err
	}
	if !bytes.Equal(raw, expected) {
		return nil, none, errors.New("the manifest is not signed, and has more than version and archive")
	}
	if want := s.Target.Source.AssetPattern(s.Platform, m.Version); p.File != want || s.Target.Source.VersionIn(p.File, s.Platform) == "" {
		return nil, none, fmt.Errorf("the archive of version %s would have the name %q by source.asset, not %q "+
			"(hint: source.asset is the whole name, with {version} or {number}, so that the signed name says the version)", m.Version, want, p.File)
	}
	return &own, p, nil
}

// checksums verifies a signed file of checksums, which must have the digest of the archive
// in a line with its name: the name of the file of checksums is not signed.
func (s signing) checksums(p manifest.Platform) (check func(io.Reader) error, err error) {
	content := s.e.Content
	if clear(content) {
		content, err = s.keys.open(content, s.now())
	} else {
		_, err = s.keys.verify(bytes.NewReader(content), s.e.Signature, s.now())
	}
	if err != nil {
		return nil, err
	}
	digests, err := manifest.ParseChecksums("", content).Of(p.File)
	if err != nil {
		return nil, fmt.Errorf("it %w", err)
	}
	if digests.SHA256 != "" && digests.SHA256 != p.SHA256 {
		return nil, s.differs(p, "sha256", p.SHA256, digests.SHA256)
	}
	return func(archive io.Reader) error {
		if digests.SHA512 == "" {
			return nil // the caller knows the sha256
		}
		h := sha512.New()
		if _, err := io.Copy(h, archive); err != nil {
			return fmt.Errorf("cannot read %s: %w", p.File, err)
		}
		if sum := hex.EncodeToString(h.Sum(nil)); sum != digests.SHA512 {
			return s.refuse(s.differs(p, "sha512", sum, digests.SHA512))
		}
		return nil
	}, nil
}

func (s signing) differs(p manifest.Platform, algorithm, is, want string) error {
	return fmt.Errorf("it says that %s has %s %s, but the source has one with %s", p.File, algorithm, want, is)
}

// archive prepares the check of a signed archive.
func (s signing) archive(p manifest.Platform) (unnamed bool, check func(io.Reader) error, err error) {
	named := claimedName(s.e.Signature)
	if named != "" && named != p.File {
		return false, nil, fmt.Errorf("its signature is of a file %.100q, not of %s", named, p.File)
	}
	if unnamed = named == ""; unnamed && len(s.Target.Health.VersionCommand) == 0 {
		return false, nil, errors.New("its signature does not say which version it is of " +
			"(hint: set health.version_command, so that the program itself says it)")
	}
	return unnamed, func(archive io.Reader) error {
		if _, err := s.keys.verify(archive, s.e.Signature, s.now()); err != nil {
			return s.refuse(err)
		}
		return nil
	}, nil
}

// Package signature verifies releases when trust.mode is "signature": their publisher signs
// them with minisign or OpenPGP, and the operator has pinned the publisher's keys.
//
// It downloads nothing and parses no archive. The libraries aead.dev/minisign and
// ProtonMail's go-crypto verify each signature. Three roles check the same [Evidence] with
// a [Verifier], and none relies on another: the fetcher before the download, the verifier
// before it unpacks anything, and root over copies of its own.
//
// An attacker that controls the fetcher chooses among all that the publisher ever signed,
// and makes up the rest. So each statement about a release needs a signature:
//
//   - With trust.product, the publisher signs the manifest, which has product, version,
//     sequence and the digest of each file. It is used as under "tuf".
//   - Without trust.product, the publisher signs a file of checksums, or the archive. The
//     manifest is then the fetcher's. It may have only version, file, size and digest of the
//     archive, and no sequence.
//
// In the second case the name of the archive binds its version: source.asset has
// {version} or {number} and no wildcard, and the signed file of checksums has a digest for
// exactly that name. The trusted comment of minisign may have the archive's name, too. An
// OpenPGP signature of an archive has no name. Then the program itself must say in the
// pre-flight which version it is. An older release is a lower version, which only the
// operator allows; see policy.Decide.
//
// Sigstore's bundles would be a third kind of signature in [Keys.verify], with
// sigstore-go's offline verifier: the key file would then hold a trusted root and the
// identity of the publisher's workflow.
package signature

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"aead.dev/minisign"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/machinemon/machinemon-update/internal/state"
)

const (
	// MaxSignature is the size in bytes of the largest signature that is read.
	MaxSignature = 64 << 10
	// maxPackets bounds the signatures in one OpenPGP signature: each reads the whole file.
	maxPackets = 8
	// maxUnhashed is the size in bytes of the largest file with a signature of minisign's
	// old form, for which the file must be in memory.
	maxUnhashed = 1 << 20

	clearMark = "-----BEGIN PGP SIGNED MESSAGE-----"
	pgpMark   = "-----BEGIN PGP "
	miniMark  = "untrusted comment: "
)

// clear reports whether a document is clear-signed: it has its signature in it.
func clear(doc []byte) bool { return bytes.Contains(doc, []byte(clearMark)) }

// verify checks a detached signature of all that signed has. It returns the name of the
// signed file, if the signature has it.
func (k Keys) verify(signed io.Reader, sig []byte, now time.Time) (name string, err error) {
	switch {
	case len(sig) > MaxSignature:
		return "", fmt.Errorf("its signature has more than %d bytes", MaxSignature)
	case bytes.HasPrefix(sig, []byte(miniMark)):
		return k.verifyMinisign(signed, sig)
	case bytes.HasPrefix(bytes.TrimSpace(sig), []byte(pgpMark)):
		block, err := armor.Decode(bytes.NewReader(sig))
		if err != nil || block.Type != openpgp.SignatureType {
			return "", errors.New("its signature is damaged, or no detached one")
		}
		return "", k.verifyOpenPGP(signed, block.Body, packet.SigTypeBinary, now)
	case len(sig) > 0 && sig[0]&0x80 != 0: // each OpenPGP packet begins so
		return "", k.verifyOpenPGP(signed, bytes.NewReader(sig), packet.SigTypeBinary, now)
	}
	return "", errors.New("its signature is neither one of minisign nor of OpenPGP (those of Sigstore and signify are not supported)")
}

// open checks a clear-signed document and returns the text in it.
func (k Keys) open(doc []byte, now time.Time) ([]byte, error) {
	block, rest := clearsign.Decode(doc)
	switch {
	case !bytes.HasPrefix(doc, []byte(clearMark)):
		return nil, errors.New("it has text before the signed part")
	case block == nil || block.ArmoredSignature.Type != openpgp.SignatureType:
		return nil, errors.New("it is clear-signed, but damaged")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("it has text after the signature")
	}
	return block.Plaintext, k.verifyOpenPGP(bytes.NewReader(block.Bytes), block.ArmoredSignature.Body, packet.SigTypeText, now)
}

func (k Keys) verifyMinisign(signed io.Reader, sig []byte) (name string, err error) {
	var s minisign.Signature
	if err := s.UnmarshalText(sig); err != nil {
		return "", errors.New("its minisign signature is damaged")
	}
	key := k.minisignKey(s.KeyID)
	if key == nil {
		return "", &unpinned{miniID(s.KeyID)}
	}
	valid := false
	if s.Algorithm == minisign.HashEdDSA {
		r := minisign.NewReader(signed)
		if _, err := io.Copy(io.Discard, r); err != nil {
			return "", err
		}
		valid = r.Verify(*key, sig)
	} else {
		message, err := io.ReadAll(io.LimitReader(signed, maxUnhashed+1))
		if err != nil {
			return "", err
		}
		if len(message) > maxUnhashed {
			return "", errors.New("its minisign signature is of the old form, which is for small files (hint: its publisher can sign it with a newer minisign)")
		}
		valid = minisign.Verify(*key, message, sig)
	}
	if !valid {
		return "", fmt.Errorf("its signature by %s is not valid: file or signature were changed", miniID(s.KeyID))
	}
	return fileOf(s.TrustedComment), nil
}

// claimedName returns the name of the file that a signature claims to be of, before it is
// verified; "" if it has none.
func claimedName(sig []byte) string {
	var s minisign.Signature
	if err := s.UnmarshalText(sig); err != nil {
		return ""
	}
	return fileOf(s.TrustedComment)
}

// fileOf returns the name that minisign writes into the trusted comment by default.
func fileOf(comment string) string {
	for field := range strings.SplitSeq(comment, "\t") {
		if name, ok := strings.CutPrefix(field, "file:"); ok {
			return name
		}
	}
	return ""
}

// verifyOpenPGP accepts a signature only if its key may sign now, and could when it
// signed: otherwise a thief of an expired key would set its clock back.
func (k Keys) verifyOpenPGP(signed, sig io.Reader, kind packet.SignatureType, now time.Time) error {
	config := &packet.Config{Time: func() time.Time { return now }}
	md, err := openpgp.VerifyDetachedSignatureReader(k.openpgp, signed, sig, config)
	if err != nil || len(md.SignatureCandidates) > maxPackets {
		return errors.New("its OpenPGP signature is damaged")
	}
	all := md.SignatureCandidates
	md.SignatureCandidates = nil
	err = &unpinned{pgpID(all[0].IssuerKeyId)}
	for _, c := range all {
		if c.SignedByEntity == nil {
			continue
		}
		switch why := unusable(c.SignedByEntity, c.IssuerKeyId, config); {
		case why != nil:
			err = fmt.Errorf("it is signed by %s, which %w", pgpID(c.IssuerKeyId), why)
		case c.SigType != kind:
			err = fmt.Errorf("its signature by %s is of another type (%d)", pgpID(c.IssuerKeyId), c.SigType)
		default:
			md.SignatureCandidates = append(md.SignatureCandidates, c)
		}
	}
	if len(md.SignatureCandidates) == 0 {
		return err
	}
	if _, err := io.Copy(io.Discard, md.UnverifiedBody); err != nil {
		return err
	}
	if md.SignatureError != nil {
		return fmt.Errorf("its signature by %s is not valid: %w", pgpID(md.SelectedCandidate.IssuerKeyId), reason(md.SignatureError))
	}
	return nil
}

// unusable returns why a key may not sign now; nil if it may.
func unusable(e *openpgp.Entity, id uint64, config *packet.Config) error {
	_, err := e.VerifyPrimaryKey(config.Now(), config)
	for i := range e.Subkeys {
		if sub := &e.Subkeys[i]; err == nil && sub.PublicKey.KeyId == id {
			_, err = sub.Verify(config.Now(), config)
		}
	}
	switch {
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return errors.New("has expired (hint: its publisher may have prolonged it: pin the newer copy)")
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return errors.New("its owner has revoked")
	case err != nil:
		return reason(err)
	}
	if _, ok := e.SigningKeyById(config.Now(), id, config); !ok {
		return errors.New("is too weak, or is not for signatures")
	}
	return nil
}

// reason returns an error of the OpenPGP library in plain words, on one line.
func reason(err error) error {
	switch {
	case errors.Is(err, pgperrors.ErrSignatureExpired):
		return errors.New("it has expired, or is from the future")
	case errors.Is(err, pgperrors.ErrSignatureOlderThanKey):
		return errors.New("it is older than its key")
	}
	return fmt.Errorf("%.200s", state.Printable(err.Error()))
}

// unpinned is the error that a signature is by a key that the operator has not pinned.
type unpinned struct{ id string }

func (u *unpinned) Error() string { return "it is signed by " + u.id + ", which is not pinned" }

package signature

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"aead.dev/minisign"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

const (
	// MaxKeys is the size in bytes of the largest key file.
	MaxKeys = 256 << 10
	// most is how many keys a key file may have: the present one, the next, and some more.
	most = 16
)

var errSecret = errors.New("it has a secret key (hint: the public one is needed here; the secret one is the publisher's alone)")

// Keys are the public keys of a publisher. Each of them may sign a release.
type Keys struct {
	minisign []minisign.PublicKey
	openpgp  openpgp.EntityList
}

// ParseKeys reads a key file. It has one or more keys: lines as minisign writes them into
// a .pub file, ASCII-armoured OpenPGP keys as "gpg --armor --export" writes them, or both;
// or else binary OpenPGP keys. Empty lines and those that begin with # are skipped.
func ParseKeys(b []byte) (Keys, error) {
	var k Keys
	var err error
	if len(b) > 0 && b[0]&0x80 != 0 {
		k.openpgp, err = openpgp.ReadKeyRing(bytes.NewReader(b))
		err = unreadable(err)
	} else {
		err = k.parseText(string(b))
	}
	if err == nil {
		err = k.check()
	}
	return k, err
}

func unreadable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("its OpenPGP key cannot be read: %w", reason(err))
}

func (k *Keys) parseText(text string) error {
	const begin, end = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
	block := ""
	n := 0
	for line := range strings.Lines(text) {
		n++
		bare := strings.TrimSpace(line)
		switch {
		case bare == begin:
			block = begin + "\n"
		case strings.HasPrefix(bare, "-----BEGIN PGP PRIVATE"):
			return errSecret
		case block != "":
			block += line
			if bare != end {
				continue
			}
			all, err := openpgp.ReadArmoredKeyRing(strings.NewReader(block))
			if err != nil {
				return unreadable(err)
			}
			k.openpgp, block = append(k.openpgp, all...), ""
		case bare == "" || bare[0] == '#' || strings.HasPrefix(bare, strings.TrimSpace(miniMark)):
		default:
			var key minisign.PublicKey
			if err := key.UnmarshalText([]byte(bare)); err != nil {
				return fmt.Errorf("line %d is neither a public key of minisign nor in one of OpenPGP", n)
			}
			k.minisign = append(k.minisign, key)
		}
	}
	if block != "" {
		return errors.New("its OpenPGP key is cut short")
	}
	return nil
}

func (k Keys) check() error {
	ids := k.IDs()
	switch {
	case len(ids) == 0:
		return errors.New("it has no key")
	case len(ids) > most:
		return fmt.Errorf("it has %d keys, and %d are allowed", len(ids), most)
	}
	for _, e := range k.openpgp {
		if e.PrivateKey != nil {
			return errSecret
		}
	}
	slices.Sort(ids)
	for i, id := range ids[1:] {
		if id == ids[i] {
			return fmt.Errorf("it has %s twice (hint: keep the newer copy)", id)
		}
	}
	return nil
}

// IDs returns what people compare: the ID of each key of minisign, and the fingerprint of
// each of OpenPGP.
func (k Keys) IDs() (ids []string) {
	for _, key := range k.minisign {
		ids = append(ids, miniID(key.ID()))
	}
	for _, e := range k.openpgp {
		ids = append(ids, fmt.Sprintf("OpenPGP key %X", e.PrimaryKey.Fingerprint))
	}
	return ids
}

func (k Keys) minisignKey(id uint64) *minisign.PublicKey {
	i := slices.IndexFunc(k.minisign, func(key minisign.PublicKey) bool { return key.ID() == id })
	if i < 0 {
		return nil
	}
	return &k.minisign[i]
}

func miniID(id uint64) string { return fmt.Sprintf("minisign key %016X", id) }
func pgpID(id uint64) string  { return fmt.Sprintf("OpenPGP key %016X", id) }

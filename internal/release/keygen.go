package release

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Keygen makes a key in DIR/<holder> and returns the path of its public half. It does not
// encrypt the key if passphrase is nil. It never replaces a key, and leaves none after an
// error.
func Keygen(dir, holder string, passphrase []byte) (public string, err error) {
	defer named(&err, "make a key in "+dir)
	if !slices.Contains(Holders, holder) {
		return "", fmt.Errorf("there is no key %q (there are %s)", holder, strings.Join(Holders, ", "))
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	pubText, err := cryptoutils.MarshalPublicKeyToPEM(pub)
	if err != nil {
		return "", err
	}
	der, err := cryptoutils.MarshalPrivateKeyToDER(priv)
	if err != nil {
		return "", err
	}
	kind := cryptoutils.PrivateKeyPEMType
	if passphrase != nil {
		kind = cryptoutils.EncryptedSigstorePrivateKeyPEMType
		if der, err = encrypted.EncryptWithCustomKDFParameters(der, passphrase, encrypted.OWASP); err != nil {
			return "", err
		}
	}
	id, err := keyID(pub)
	if err != nil {
		return "", err
	}
	into := filepath.Join(dir, holder)
	if err := os.MkdirAll(into, 0o700); err != nil {
		return "", err
	}
	base := filepath.Join(into, id[:12])
	// The secret half comes first: the public half is useless without it.
	if err := writeNew(base+secretKey, cryptoutils.PEMEncode(kind, der), 0o600); err != nil {
		return "", err
	}
	if err := writeNew(base+publicKey, pubText, 0o644); err != nil {
		os.Remove(base + secretKey)
		return "", err
	}
	// The holder may remove the medium after this: sync all directories.
	if err := cmp.Or(durable.SyncDir(into), durable.SyncDir(dir), durable.SyncDir(filepath.Dir(dir))); err != nil {
		os.Remove(base + publicKey)
		os.Remove(base + secretKey)
		return "", err
	}
	return base + publicKey, nil
}

// writeNew leaves the whole file on the disk, or after an error no file.
func writeNew(path string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = cmp.Or(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}

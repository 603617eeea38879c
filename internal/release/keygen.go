package release

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// Keygen makes a key in DIR/<holder> and returns the path of its public half. It does not
// encrypt the key if passphrase is nil. It never replaces a key, and leaves none after an
// error.
func Keygen(dir, holder string, passphrase []byte) (public string, err error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("cannot make a key in %s: %w", dir, plain(err)) }
	if !slices.Contains(Holders, holder) {
		return fail(fmt.Errorf("there is no key %q (there are %s)", holder, strings.Join(Holders, ", ")))
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fail(err)
	}
	pubText, err := cryptoutils.MarshalPublicKeyToPEM(pub)
	if err != nil {
		return fail(err)
	}
	der, err := cryptoutils.MarshalPrivateKeyToDER(priv)
	if err != nil {
		return fail(err)
	}
	kind := cryptoutils.PrivateKeyPEMType
	if passphrase != nil {
		kind = cryptoutils.EncryptedSigstorePrivateKeyPEMType
		if der, err = encrypted.EncryptWithCustomKDFParameters(der, passphrase, encrypted.OWASP); err != nil {
			return fail(err)
		}
	}
	id, err := keyID(pub)
	if err != nil {
		return fail(err)
	}
	into := filepath.Join(dir, holder)
	if err := os.MkdirAll(into, 0o700); err != nil {
		return fail(err)
	}
	base := filepath.Join(into, id[:12])
	// The secret half comes first: the public half is useless without it.
	if err := writeNew(base+secretKey, cryptoutils.PEMEncode(kind, der), 0o600); err != nil {
		return fail(err)
	}
	err = writeNew(base+publicKey, pubText, 0o644)
	if err == nil {
		// The holder may remove the medium after this: sync all directories.
		for _, d := range []string{into, dir, filepath.Dir(dir)} {
			if err = syncDir(d); err != nil {
				break
			}
		}
		if err != nil {
			os.Remove(base + publicKey)
		}
	}
	if err != nil {
		os.Remove(base + secretKey)
		return fail(err)
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
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(path)
	}
	return err
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

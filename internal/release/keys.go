package release

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sys/unix"
)

// The holders of keys. Snapshot and timestamp share one key, because the timer that signs
// one also signs the other.
const (
	RootKey    = "root"
	TargetsKey = "targets"
	OnlineKey  = "online"
)

// Holders are the holders for which Keygen makes keys.
var Holders = []string{RootKey, TargetsKey, OnlineKey}

const (
	secretKey = ".pem" // PKCS #8, encrypted as sigstore's tools do
	publicKey = ".pub" // PKIX
	// maxKey is a size in bytes far above that of a key file.
	maxKey = 64 << 10
)

// Keys says where the private keys are:
//
//	DIR/root/<id>.pem       0600, and beside it <id>.pub
//	DIR/targets/<id>.pem
//	DIR/online/<id>.pem
type Keys struct {
	Dir        string
	Files      []string                          // private keys elsewhere, of any holder
	Passphrase func(file string) ([]byte, error) // called for encrypted keys
}

// keyID returns the ID that TUF gives a key.
func keyID(public crypto.PublicKey) (string, error) {
	k, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return "", err
	}
	return k.ID()
}

// Short returns the beginnings of key IDs, which are the names of their files.
func Short(ids []string) []string {
	short := slices.Clone(ids)
	for i, id := range short {
		short[i] = id[:min(12, len(id))]
	}
	return short
}

// readPublic reads a .pub file.
func readPublic(path string) (*metadata.Key, error) {
	b, err := readKeyFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, plain(err))
	}
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(b)
	if _, ok := pub.(ed25519.PublicKey); err != nil || !ok {
		return nil, fmt.Errorf("cannot use %s: it is not a public ed25519 key", path)
	}
	return metadata.KeyFromPublicKey(pub)
}

func readKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxKey))
}

// noRoot returns an error while the directory has a root key that can be read. A thief of
// the publishing machine gets all keys on it, and the root key is needed to replace the
// others. noRoot cannot see keys on other media.
func (k Keys) noRoot() error {
	for _, path := range k.of(RootKey) {
		if unix.Access(path, unix.R_OK) == nil {
			return fmt.Errorf("the root key %s can be read here (hint: keep root keys on a medium of their own, and plug it in for \"rotate\" only)", path)
		}
	}
	return nil
}

// of returns the private keys of a holder in the directory.
func (k Keys) of(holder string) []string {
	if k.Dir == "" {
		return nil
	}
	found, _ := filepath.Glob(filepath.Join(k.Dir, holder, "*"+secretKey)) // the pattern is valid
	return found
}

// signer is a private key and the ID of its public half.
type signer struct {
	signature.Signer
	id string
}

// signers loads each key of the holder that the root names for the role.
func (k Keys) signers(holder string, root *metadata.RootType, role string) ([]signer, error) {
	var all []signer
	wanted := root.Roles[role].KeyIDs
	for _, path := range append(k.of(holder), k.Files...) {
		if pub, err := readPublic(strings.TrimSuffix(path, secretKey) + publicKey); err == nil {
			if id, err := pub.ID(); err != nil || !slices.Contains(wanted, id) && !slices.Contains(root.Roles[metadata.ROOT].KeyIDs, id) {
				continue // so that no passphrase is asked for
			}
		}
		s, err := k.load(path)
		if err != nil {
			return nil, err
		}
		if role != metadata.ROOT && slices.Contains(root.Roles[metadata.ROOT].KeyIDs, s.id) {
			return nil, fmt.Errorf("%s is a root key, which signs roots only", path)
		}
		if slices.Contains(wanted, s.id) {
			all = append(all, s)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there is no %s key in %s that the root names (it names %s)", holder, filepath.Join(k.Dir, holder), strings.Join(Short(wanted), ", "))
	}
	return all, nil
}

func (k Keys) load(path string) (_ signer, err error) {
	defer named(&err, "use the key "+path)
	if err := onlyOurs(path); err != nil {
		return signer{}, err
	}
	b, err := readKeyFile(path)
	if err != nil {
		return signer{}, err
	}
	if string(b) == "none" { // of SetCredential= in the timers' units
		return signer{}, errors.New("there is no such key (hint: copy it as \"Signing every day\" in man machinemon-release says)")
	}
	asked := false
	priv, err := cryptoutils.UnmarshalPEMToPrivateKey(b, func(bool) ([]byte, error) {
		asked = true
		return k.Passphrase(path)
	})
	if asked && err != nil && strings.Contains(err.Error(), "decryption failed") {
		err = errors.New("the passphrase is not the right one")
	}
	if err != nil {
		return signer{}, err
	}
	key, ok := priv.(ed25519.PrivateKey)
	if !ok {
		return signer{}, errors.New("it is not an ed25519 key")
	}
	id, err := keyID(key.Public())
	if err != nil {
		return signer{}, err
	}
	s, err := signature.LoadED25519Signer(key)
	if err != nil {
		return signer{}, err
	}
	return signer{s, id}, nil
}

// onlyOurs refuses a key that others can read. It accepts credentials of systemd: an ACL
// protects them, which looks like a permission of the group.
func onlyOurs(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if credentials := os.Getenv("CREDENTIALS_DIRECTORY"); credentials != "" && filepath.Dir(path) == filepath.Clean(credentials) {
		return nil
	}
	if info.Mode().Perm()&(fs.ModePerm&0o077) != 0 {
		return fmt.Errorf("others may read or write it (hint: chmod 600 %s)", path)
	}
	return nil
}

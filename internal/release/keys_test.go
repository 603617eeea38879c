package release

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

func TestKeys(t *testing.T) {
	testkit.Slow(t)
	dir := t.TempDir()
	pub, err := Keygen(dir, OnlineKey, []byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.TrimSuffix(pub, publicKey) + secretKey
	if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if b, _ := os.ReadFile(secret); !bytes.HasPrefix(b, []byte("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----")) {
		t.Errorf("got %s", b)
	}
	phrase := "correct horse"
	k := Keys{Dir: dir, Passphrase: func(string) ([]byte, error) { return []byte(phrase), nil }}
	if s, err := k.load(secret); err != nil || !strings.HasPrefix(pub, filepath.Join(dir, OnlineKey, s.id[:12])) {
		t.Errorf("got %s, %v", s.id, err)
	}
	phrase = "battery staple"
	if _, err := k.load(secret); err == nil || err.Error() != "cannot use the key "+secret+": the passphrase is not the right one" {
		t.Errorf("got %v", err)
	}
	none := filepath.Join(dir, "online.pem")
	testkit.Must(t, os.WriteFile(none, []byte("none"), 0o600)) // the units' credential, if there is no file
	if _, err := k.load(none); err == nil || !strings.HasPrefix(err.Error(), "cannot use the key "+none+": there is no such key (hint: ") {
		t.Errorf("got %v", err)
	}
	if err := os.Chmod(secret, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := k.load(secret); err == nil || !strings.Contains(err.Error(), "others may read or write it (hint: chmod 600") {
		t.Errorf("got %v", err)
	}
	if _, err := Keygen(dir, "admin", nil); err == nil {
		t.Error("a key for no role")
	}
}

// TestKeygenFullDisk: a key is on the disk with both halves, or not at all.
func TestKeygenFullDisk(t *testing.T) {
	testkit.NeedRoot(t, "it mounts a small disk")
	for name, options := range map[string]string{
		"no room for the secret key":  "size=4k",
		"no inode for the public one": "nr_inodes=4", // taken by the root directory, keys/, online/ and the secret half
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
				t.Skip("cannot mount: ", err)
			}
			t.Cleanup(func() { unix.Unmount(dir, 0) })
			if strings.HasPrefix(options, "size") {
				if err := os.WriteFile(filepath.Join(dir, "full"), make([]byte, 4096), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Keygen(filepath.Join(dir, "keys"), OnlineKey, nil)
			if !errors.Is(err, unix.ENOSPC) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v", err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "keys/online/*")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestKeyIsNeverReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0123456789ab.pem")
	if err := writeNew(path, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeNew(path, []byte("second"), 0o600); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "first" {
		t.Errorf("it is %q", b)
	}
}

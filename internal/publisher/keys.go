package publisher

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/machinemon/machinemon-update/internal/release"
)

// keysDir returns the default directory of keys. It is "" for a user without a home, such
// as a service: then --keys or --key must say where the keys are.
func keysDir() string {
	config, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(config, "machinemon-release", "keys")
}

// keyFlags adds the flags of each verb that signs, which set k.
func keyFlags(c *cobra.Command, k *release.Keys) {
	c.Flags().StringVar(&k.Dir, "keys", keysDir(), "`directory` of the keys: root/, targets/ and online/")
	c.Flags().StringArrayVar(&k.Files, "key", nil, "a private key `file` elsewhere; may be given more than once")
	p := passphraseFlag(c)
	k.Passphrase = func(file string) ([]byte, error) { return p.read("Passphrase of " + file + ": ") }
}

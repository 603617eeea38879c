package publisher

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/release"
)

const keygenHelp = `Example: the keys of a single publisher, root's on two USB sticks:

  machinemon-release keygen root --keys /media/usb/one
  machinemon-release keygen root --keys /media/usb2/two
  machinemon-release keygen targets
  machinemon-release keygen online

Makes an ed25519 key for one of root, targets and online in a directory of its
own, KEYS/root for example: ID.pem, which is secret and encrypted with a
passphrase, and ID.pub, which "init" and "rotate" take.

  root     names all keys. Keep it offline, on two media in two places: it is
           what brings back trust when another key is lost or stolen.
  targets  signs releases: on a laptop, or in CI behind an approval.
  online   signs every day that there is nothing newer, by a timer.`

func keygenCommand() *cobra.Command {
	var dir string
	var bare bool
	c := &cobra.Command{
		Use:       "keygen root|targets|online [--keys KEYS]",
		Short:     "Make a key",
		Long:      keygenHelp,
		ValidArgs: release.Holders,
		Args: cli.Args("one of root, targets and online", "", func(args []string) bool {
			return len(args) == 1 && slices.Contains(release.Holders, args[0])
		}),
	}
	c.Flags().StringVar(&dir, "keys", keysDir(), "`directory` of the keys")
	c.Flags().BoolVar(&bare, "no-passphrase", false, "leave the key unencrypted, for a service, which cannot type one")
	p := passphraseFlag(c)
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		if dir == "" {
			return cli.Usagef("there is no home directory: --keys must say where the key goes")
		}
		var phrase []byte
		if !bare {
			if phrase, err = p.choose(); err != nil {
				return err
			}
		}
		public, err := release.Keygen(dir, args[0], phrase)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), public)
		return err
	}
	return c
}

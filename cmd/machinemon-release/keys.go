package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/machinemon/machinemon-update/internal/release"
)

// keysDir is "" for a user without a home, such as a service: then --keys or --key
// say where they are.
func keysDir() string {
	config, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(config, "machinemon-release", "keys")
}

// keyFlags are the flags of every verb that signs.
func keyFlags(c *cobra.Command) func() release.Keys {
	var k release.Keys
	c.Flags().StringVar(&k.Dir, "keys", keysDir(), "`directory` of the keys: root/, targets/ and online/")
	c.Flags().StringArrayVar(&k.Files, "key", nil, "a private key `file` elsewhere; may be given more than once")
	p := passphraseFlag(c)
	return func() release.Keys {
		k.Passphrase = func(file string) ([]byte, error) { return p.read("Passphrase of " + file + ": ") }
		return k
	}
}

// passphrase comes from a file descriptor, else from a credential of systemd's, else
// from whoever sits at the terminal. Never from an argument or the environment,
// which other users and core dumps show.
type passphrase struct {
	fd    int
	known []byte
}

// credential is the name that a unit gives the passphrase with LoadCredential=.
const credential = "passphrase"

func passphraseFlag(c *cobra.Command) *passphrase {
	p := &passphrase{}
	c.Flags().IntVar(&p.fd, "passphrase-fd", -1, "read the passphrase from this file `descriptor`")
	return p
}

func (p *passphrase) read(prompt string) ([]byte, error) {
	if p.known != nil {
		return p.known, nil
	}
	from, err := p.file()
	if err != nil {
		return nil, err
	}
	if from == nil {
		return ask(prompt)
	}
	defer from.Close()
	b, err := io.ReadAll(io.LimitReader(from, 4<<10))
	if err != nil {
		return nil, errors.New("cannot read the passphrase: " + err.Error())
	}
	b, _, _ = bytes.Cut(b, []byte("\n"))
	if len(b) == 0 {
		return nil, errors.New("the passphrase is empty")
	}
	p.known = b
	return b, nil
}

// file is nil where a person has to be asked.
func (p *passphrase) file() (*os.File, error) {
	if p.fd >= 0 {
		return os.NewFile(uintptr(p.fd), "passphrase"), nil
	}
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return nil, nil
	}
	f, err := os.Open(filepath.Join(dir, credential))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

func ask(prompt string) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, errors.New("a passphrase is needed, and there is no terminal (hint: --passphrase-fd, or the credential \"" + credential + "\")")
	}
	defer tty.Close()
	fmt.Fprint(tty, prompt)
	b, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	if err == nil && len(b) == 0 {
		err = errors.New("the passphrase is empty")
	}
	return b, err
}

// choose has a new passphrase typed twice.
func (p *passphrase) choose() ([]byte, error) {
	first, err := p.read("New passphrase: ")
	if err != nil || p.known != nil {
		return first, err
	}
	second, err := p.read("Once more: ")
	if err == nil && !bytes.Equal(first, second) {
		err = errors.New("the two passphrases are not the same")
	}
	return first, err
}

const keygenHelp = `Example: the keys of somebody who publishes alone, root's on two USB sticks:

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

func keygenCommand(began *bool) *cobra.Command {
	var dir string
	var bare bool
	c := &cobra.Command{
		Use:                   "keygen root|targets|online [--keys KEYS]",
		Short:                 "Make a key",
		Long:                  keygenHelp,
		DisableFlagsInUseLine: true,
		ValidArgs:             release.Holders,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !strings.Contains(" "+strings.Join(release.Holders, " ")+" ", " "+args[0]+" ") {
				return errors.New("keygen takes one of root, targets and online (see machinemon-release keygen --help)")
			}
			return nil
		},
	}
	c.Flags().StringVar(&dir, "keys", keysDir(), "`directory` of the keys")
	c.Flags().BoolVar(&bare, "no-passphrase", false, "leave the key unencrypted, for a service that nobody can type one for")
	p := passphraseFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if dir == "" {
			return errors.New("there is no home directory: --keys must say where the key goes")
		}
		*began = true
		var phrase []byte
		if !bare {
			var err error
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

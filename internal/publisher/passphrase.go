package publisher

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// passphrase reads a passphrase from a file descriptor, else from a credential of
// systemd, else from the terminal. It never reads one from an argument or the
// environment, which other users and core dumps can show.
type passphrase struct {
	fd    int
	known []byte
}

// credential is the name of the passphrase in a unit's LoadCredential=.
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

// file returns the file to read, or nil if the terminal must be asked.
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

// choose asks for a new passphrase twice.
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

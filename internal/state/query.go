package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// The query of an address often is a password, such as a signature that expires. An order
// is for all users to read, so the query of its address is a file of its own, which only
// root and the fetcher can read.

func (t Tree) query(target string) string {
	return filepath.Join(t.Run, "attempt", target+".query")
}

// HandQuery gives the query of an order's address to the user of the fetcher. If the
// address has none, it removes that of an earlier order.
func (t Tree) HandQuery(target, address string, uid int) error {
	_, query, found := strings.Cut(address, "?")
	if !found {
		return t.DropQuery(target)
	}
	path := t.query(target)
	if err := durable.WriteFile(path, []byte(query), 0o400); err != nil {
		return err
	}
	if err := os.Chown(path, uid, -1); err != nil {
		return fmt.Errorf("cannot give %s to user %d: %w", path, uid, durable.Cause(err))
	}
	return nil
}

// DropQuery removes what HandQuery wrote, if there is any.
func (t Tree) DropQuery(target string) error {
	if err := os.Remove(t.query(target)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove %s: %w", t.query(target), durable.Cause(err))
	}
	return nil
}

// Address returns the order's address with its query.
func (t Tree) Address(target string, o Order) (string, error) {
	if !o.Query {
		return o.URL, nil
	}
	query, err := durable.ReadFile(t.query(target), maxFile)
	if err != nil {
		return "", fmt.Errorf("cannot read %s: %w", t.query(target), durable.Cause(err))
	}
	return o.URL + "?" + string(query), nil
}

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/dirtree"
	"github.com/machinemon/machinemon-update/internal/durable"
)

// File is an installed file.
type File struct {
	To     string `json:"to"`
	SHA256 string `json:"sha256"`
	Backup string `json:"backup,omitempty"` // of a previous release: the path of its bytes
	// Size is that of Backup in bytes; 0 if it is not known.
	Size int64 `json:"size,omitempty"`
	// Created says that an update created the file.
	Created bool `json:"created,omitempty"`
	// Private says that not all users may read the file, and thus its digest.
	Private bool `json:"private,omitempty"`
	// Tree says that this is a directory, and SHA256 its digest in the terms of package
	// tree; nil for a file.
	Tree *Directory `json:"tree,omitempty"`
}

// Directory is what is recorded of a tree that is installed.
type Directory struct {
	Keep []string `json:"keep,omitempty"` // the names below it that are no part of its digest
	// Mark is that of package dirtree, of the installed directory; "" if it is not known.
	Mark string `json:"mark,omitempty"`
	// Releases is the directory that has each release in a directory of its own. To is a
	// link to one of these then. It is "" if To is the tree itself.
	Releases string `json:"releases,omitempty"`
}

// Hidden reports whether the file's digest is not shown to this user.
func (f File) Hidden() bool { return f.SHA256 == hiddenSum }

// Dir returns the directory in which the bytes of the file are, or those of its releases.
func (f File) Dir() string {
	if f.Tree != nil && f.Tree.Releases != "" {
		return f.Tree.Releases
	}
	return filepath.Dir(f.To)
}

// tree returns the path of a tree. The backup of one is no link.
func (f File) tree() string {
	if f.Tree.Releases != "" {
		if dir, err := dirtree.Follow(f.To); err == nil {
			return dir
		}
	}
	return f.To
}

// Digest returns the digest of what is at the file's place; "" if there is nothing.
func (f File) Digest() (sum string, err error) {
	if durable.OfUser(f.To) {
		return "", fmt.Errorf("root does not read %s, which is in a user's directory", f.To)
	}
	if f.Tree != nil {
		sum, err = dirtree.Digest(f.tree(), f.Tree.Keep)
	} else {
		sum, err = durable.FileSHA256(f.To)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return sum, err
}

// Marked returns the mark of the tree that is at the file's place now.
func (f File) Marked() (string, error) { return dirtree.Mark(f.tree(), f.Tree.Keep) }

// Same reports whether what is at the file's place is what the release left there. Root
// does not look into a user's directory: there, only the swap notices a change.
func (f File) Same() bool {
	if durable.OfUser(f.To) {
		return true
	}
	if f.Tree != nil && f.Tree.Mark != "" {
		if mark, err := f.Marked(); err == nil && mark == f.Tree.Mark {
			return true
		}
	}
	sum, err := f.Digest()
	return err == nil && sum == f.SHA256
}

package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long [RemoveTree] works at most. Another user may add files faster than
// they can be removed.
const patience = 20 * time.Second

// NamesIn returns the names in a directory, in the order of the disk. It does not hold all
// of them in memory, because another user may have made millions. After an error there are
// no more names.
func NamesIn(root *os.Root) iter.Seq2[string, error] { return namesOf(root, ".") }

func namesOf(root *os.Root, name string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		d, err := root.OpenFile(name, readOnly|unix.O_DIRECTORY, 0)
		if err != nil {
			yield("", err)
			return
		}
		defer d.Close()
		for {
			names, err := d.Readdirnames(1000)
			for _, n := range names {
				if !yield(n, nil) {
					return
				}
			}
			if err == io.EOF {
				return
			}
			if err != nil {
				yield("", err)
				return
			}
		}
	}
}

// RemoveTree removes name, a plain name below root, with all that it contains. Another user
// may have made it: RemoveTree follows no link out of root, and a deep or large tree takes
// no more memory, stack or open files than a small one. Instead of descending, it moves
// each directory up into name. It is not an error if name does not exist.
func RemoveTree(root *os.Root, name string) error {
	for until := time.Now().Add(patience); ; {
		full, err := remove(root, name)
		if !full {
			return err
		}
		if err := flatten(root, name, until); err != nil {
			return err
		}
	}
}

// remove removes a file or an empty directory. full says that it is another directory.
func remove(root *os.Root, name string) (full bool, err error) {
	switch err := root.Remove(name); {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
		return true, nil
	default:
		return false, err
	}
}

// flatten removes what a directory contains, and moves the directories of its directories
// up into it.
func flatten(root *os.Root, name string, until time.Time) error {
	for child, err := range namesOf(root, name) {
		full := false
		if err == nil {
			full, err = remove(root, name+"/"+child)
		}
		if full {
			err = moveUp(root, name, child, until)
		}
		if err == nil && time.Now().After(until) {
			err = &fs.PathError{Op: "remove", Path: name, Err: fmt.Errorf("it is not empty after %s", patience)}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// moveUp moves the directories in name/child into name, and removes the rest of it.
func moveUp(root *os.Root, name, child string, until time.Time) error {
	from := name + "/" + child
	for n, err := range namesOf(root, from) {
		full := false
		if err == nil {
			full, err = remove(root, from+"/"+n)
		}
		if full {
			err = RenameIn(root, from+"/"+n, name+"/"+rand.Text())
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if time.Now().After(until) {
			return nil // flatten reports it
		}
	}
	_, err := remove(root, from) // if something is left, the next round removes it
	return err
}

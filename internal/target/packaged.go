package target

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Package returns the Debian package that owns a file, whose path has no symlinks, or "".
func (d Dirs) Package(file string) (string, error) {
	_, pkg, err := checker{root: d.Root}.packaged(aliases(file, file))
	return pkg, err
}

// packaged returns the first of files that a Debian package owns, and the package's name.
// Both are "" if there is no such file, or no dpkg on this machine. A name with / at its
// end stands for everything below that directory.
func (c checker) packaged(files []string) (file, pkg string, err error) {
	const info = "/var/lib/dpkg/info"
	entries, err := os.ReadDir(c.root + info)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("%s: %w", info, durable.Cause(err))
	}
	named := make(map[string]bool)
	var dirs []string
	for _, file := range files {
		if strings.HasSuffix(file, "/") {
			dirs = append(dirs, file)
		} else {
			named[file] = true
		}
	}
	// A machine has hundreds of lists, so one buffer serves for all, and each line is
	// looked at once.
	var list bytes.Buffer
	for _, e := range entries {
		pkg, ok := strings.CutSuffix(e.Name(), ".list")
		if !ok {
			continue
		}
		list.Reset()
		err := readList(&list, filepath.Join(c.root, info, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // dpkg replaced the list since ReadDir
		}
		if err != nil {
			return "", "", fmt.Errorf("%s/%s: %w", info, e.Name(), durable.Cause(err))
		}
		for line := range bytes.SplitSeq(list.Bytes(), []byte("\n")) {
			if named[string(line)] {
				return string(line), pkg, nil
			}
			for _, dir := range dirs {
				if bytes.HasPrefix(line, []byte(dir)) {
					return dir, pkg, nil
				}
			}
		}
	}
	return "", "", nil
}

func readList(into *bytes.Buffer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = into.ReadFrom(f)
	return err
}

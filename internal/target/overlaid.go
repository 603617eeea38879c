package target

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Overlaid warns of a file that shells find before a program of a package, although the
// target file excludes that name from releases because of the package; "" if there is
// none. The program's own installation can have put it there again.
func (t *Target) Overlaid() string {
	if t.Listing == nil {
		return ""
	}
	for _, lt := range t.Listing.Types {
		for _, name := range lt.Exclude {
			ours, theirs := "/usr/bin/"+name, filepath.Join(lt.Directory, name)
			if plainName.MatchString(name) && ours != theirs && t.check.hides(theirs, ours) {
				return theirs + " is not the package's, and runs instead of " + ours + " (hint: reinstall the package of " + ours + ")"
			}
		}
	}
	return ""
}

// hides reports whether both files exist, and file neither is program nor runs it.
func (c checker) hides(file, program string) bool {
	ours, err := os.Stat(c.root + program)
	if err != nil {
		return false
	}
	theirs, err := os.Stat(c.root + file)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	if os.SameFile(ours, theirs) {
		return false
	}
	const most = 4 << 10 // a script that only runs the program is shorter
	b, err := durable.ReadFile(c.root+file, most)
	return err != nil || !bytes.Contains(b, []byte("\nexec "+program+" "))
}

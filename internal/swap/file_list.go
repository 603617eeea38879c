package swap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// addListed adds to the target the files that the release's own list names. where maps
// names in the archive to names in the verified tree.
func (sw *swapping) addListed(entry *state.Bundle, where map[string]string, p manifest.Platform, host string) error {
	t := sw.target
	name := t.Listing.Entry(host, sw.journal.Version)
	from, ok := where[name]
	_, inContents := p.Contents[name] // if it is there, the release must have the list
	if name == "" || !ok && t.Listing.Optional && !inContents {
		return nil
	}
	if !ok {
		return state.Fail(state.ResultRefused, "cannot find %s in the release", name)
	}
	list, err := entry.Read(from, target.MaxList)
	if err != nil {
		return err
	}
	if want, listed := p.Contents[name]; len(p.Contents) > 0 && (!listed || want.SHA256 != manifest.Digest(list)) {
		return state.Fail(state.ResultRefused, "cannot use %s: it is not the one in the manifest's contents", name)
	}
	excluded, err := t.AddListed(list, host, sw.journal.Version)
	if err != nil {
		return state.Fail(state.ResultRefused, "cannot use %s: %w", name, err)
	}
	if len(list) <= maxKeptList {
		sw.journal.List = string(list)
	}
	if len(excluded) > 0 {
		sw.logf("%s: left alone, as the target file says: %s", describe(sw.journal), target.SomeNames(excluded))
	}
	return sw.leaveOut(entry, where, p, t.LeftOut(excluded, host, sw.journal.Version))
}

// makeListed makes the missing directories into which a release may list files. The swap
// could not make them, because its unit may not write to their parents.
func makeListed(t *target.Target) error {
	if t.Listing == nil {
		return nil
	}
	for _, lt := range t.Listing.Types {
		if target.CheckRootOnly(filepath.Dir(lt.Directory)) != nil {
			continue // a user who can write there could redirect root; CheckDestinations reports it
		}
		err := os.Mkdir(lt.Directory, 0o755)
		if err == nil {
			err = os.Chmod(lt.Directory, 0o755) // regardless of the umask
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cannot make %s: %w", lt.Directory, durable.Cause(err))
		}
	}
	return nil
}

package release

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// draftFile is a root that still lacks signatures. Machines never request it. Any user
// that can write to the directory may have made it.
const draftFile = ".next-root.json"

// readDraft returns nil if there is no draft, or one that is already published. It
// refuses drafts that Init and Rotate would not make.
func readDraft(path string, last *rootMetadata, now time.Time) (*rootMetadata, error) {
	b, err := os.ReadFile(filepath.Join(path, draftFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var root *rootMetadata
	if err == nil {
		root, err = parseRoot(b)
	}
	if err == nil && root.Signed.Version <= last.Signed.Version {
		return nil, nil // its publisher was killed before it removed the draft
	}
	if err == nil {
		err = acceptable(&root.Signed, &last.Signed, now)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w (hint: remove that file)", draftFile, plain(err))
	}
	return root, nil
}

func acceptable(root, last *metadata.RootType, now time.Time) error {
	switch {
	case root.Version != last.Version+1:
		return fmt.Errorf("it is v%d, and the one before it v%d", root.Version, last.Version)
	case !root.ConsistentSnapshot:
		return errors.New("consistent_snapshot must be true")
	case !root.Expires.After(now):
		return fmt.Errorf("it expired on %s", root.Expires.UTC().Format(time.DateOnly))
	case root.Expires.After(now.Add(rootExpiry + day)): // clocks may differ by a day
		return fmt.Errorf("it expires on %s only, and a root holds for a year", root.Expires.UTC().Format(time.DateOnly))
	}
	return enough(root)
}

// enough refuses a root that one lost key would make unusable, or whose keys are not what
// their names say.
func enough(s *metadata.RootType) error {
	root := s.Roles[metadata.ROOT]
	if len(root.KeyIDs) < 2 || root.Threshold >= len(root.KeyIDs) {
		return fmt.Errorf("the root would have %d keys and need %d of them: one that is lost would be the end of all updates (hint: one key more, on a medium of its own)", len(root.KeyIDs), root.Threshold)
	}
	owner := map[string]string{}
	for _, holder := range Holders {
		first := s.Roles[roles[holder][0]]
		if len(first.KeyIDs) == 0 {
			return fmt.Errorf("there is no %s key (hint: machinemon-release keygen %s)", holder, holder)
		}
		for _, id := range first.KeyIDs {
			if other, twice := owner[id]; twice {
				return fmt.Errorf("the key %.12s is given for %s and for %s", id, other, holder)
			}
			owner[id] = holder
			if err := usable(s.Keys[id], id); err != nil {
				return fmt.Errorf("the %s key %+.12q %w", holder, id, err)
			}
		}
		if first.Threshold > len(first.KeyIDs) {
			return fmt.Errorf("%s would have %d keys and need %d of them", holder, len(first.KeyIDs), first.Threshold)
		}
		for _, role := range roles[holder][1:] {
			if r := s.Roles[role]; r.Threshold != first.Threshold || !slices.Equal(r.KeyIDs, first.KeyIDs) {
				return fmt.Errorf("%s and %s must have the same keys", roles[holder][0], role)
			}
		}
	}
	return nil
}

// usable refuses a key with another ID than its own: one key could pass for two.
func usable(k *metadata.Key, id string) error {
	if k == nil {
		return errors.New("is not among its keys")
	}
	pub, err := k.ToPublicKey()
	if _, ok := pub.(ed25519.PublicKey); err != nil || !ok {
		return errors.New("is not an ed25519 key")
	}
	if own, err := keyID(pub); err != nil || own != id {
		return errors.New("is not named by its ID")
	}
	return nil
}

// changes returns what root changes in last, whose version is 0 for the first root.
func changes(last, root *metadata.RootType) []string {
	before := func(s string) string {
		if last.Version == 0 {
			return ""
		}
		return ", before " + s
	}
	all := []string{
		fmt.Sprintf("version: %d%s", root.Version, before(fmt.Sprint(last.Version))),
		"expires: " + root.Expires.UTC().Format(time.DateOnly) + before(last.Expires.UTC().Format(time.DateOnly)),
	}
	for _, holder := range Holders {
		was, is := last.Roles[roles[holder][0]], root.Roles[roles[holder][0]]
		for _, id := range is.KeyIDs {
			if !slices.Contains(was.KeyIDs, id) {
				all = append(all, fmt.Sprintf("%s: adds the key %.12s", holder, id))
			}
		}
		for _, id := range was.KeyIDs {
			if !slices.Contains(is.KeyIDs, id) {
				all = append(all, fmt.Sprintf("%s: removes the key %.12s", holder, id))
			}
		}
		of := func(r *metadata.Role) string { return fmt.Sprintf("%d of %d", r.Threshold, len(r.KeyIDs)) }
		if of(was) != of(is) {
			all = append(all, fmt.Sprintf("%s: needs %s%s", holder, of(is), before(of(was))))
		}
	}
	return all
}

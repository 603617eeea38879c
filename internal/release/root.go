package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/machinemon/machinemon-update/internal/trust"
)

// draftFile is a root that still lacks signatures. Nobody asks for it.
const draftFile = ".next-root.json"

// RootRequest is a first root, or the next one.
type RootRequest struct {
	Dir       string
	Keys      Keys
	Add       map[string][]string // public key files, by holder
	Remove    []string            // key IDs, or how they begin
	Threshold int                 // of root; 0: as it is, at first 2 of 3 and 1 of 2
	Now       time.Time
}

func (q RootRequest) changes() bool { return len(q.Add) > 0 || len(q.Remove) > 0 || q.Threshold > 0 }

// RootResult is what became of it.
type RootResult struct {
	Version int64
	Missing string // what signatures the draft lacks; "": it is published
	Next    string // what to do now; "": nothing
}

var roles = map[string][]string{
	RootKey:    {metadata.ROOT},
	TargetsKey: {metadata.TARGETS},
	OnlineKey:  {metadata.SNAPSHOT, metadata.TIMESTAMP},
}

// Init makes a directory a signed repository.
func Init(q RootRequest) (*RootResult, error) {
	r, err := q.sign(func(r *repository) (*metadata.Metadata[metadata.RootType], error) {
		if r != nil {
			return nil, errors.New("it is a repository already (hint: see \"status\", and \"rotate\" to change its root)")
		}
		root := metadata.Root()
		root.Signed.Version = 0
		return root, nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot initialise %s: %w", q.Dir, err)
	}
	return r, nil
}

// Rotate makes the next root: with other keys, or the same for another year. It
// is published once enough keys of the root before and of its own have signed it;
// until then each holder of one runs Rotate again.
func Rotate(q RootRequest) (*RootResult, error) {
	r, err := q.sign(func(r *repository) (*metadata.Metadata[metadata.RootType], error) {
		if r == nil {
			return nil, errors.New("it is not a repository (hint: machinemon-release init)")
		}
		return metadata.Root().FromBytes(r.now.Roots[len(r.now.Roots)-1])
	})
	if err != nil {
		return nil, fmt.Errorf("cannot rotate the root of %s: %w", q.Dir, err)
	}
	return r, nil
}

func (q RootRequest) sign(begin func(*repository) (*metadata.Metadata[metadata.RootType], error)) (*RootResult, error) {
	d, err := openDir(q.Dir)
	if err != nil {
		return nil, plain(err)
	}
	defer d.Close()
	r, err := d.openRepository()
	if err != nil {
		return nil, err
	}
	last, err := begin(r)
	if err != nil {
		return nil, err
	}
	root, err := readDraft(d)
	switch {
	case err != nil:
		return nil, err
	case root != nil && (q.changes() || root.Signed.Version != last.Signed.Version+1):
		return nil, fmt.Errorf("%s awaits signatures (hint: run it without other options to sign, or remove that file)", filepath.Join(q.Dir, draftFile))
	case root == nil:
		if root, err = q.next(last); err != nil {
			return nil, err
		}
	}
	if err := q.add(root, last); err != nil {
		return nil, err
	}
	text, err := root.ToBytes(true)
	if err != nil {
		return nil, err
	}
	text = append(text, '\n')
	result := &RootResult{Version: root.Signed.Version, Missing: missing(root, last)}
	if result.Missing != "" {
		return result, d.replace(draftFile, text)
	}
	if err := d.replace(rootFile(root.Signed.Version), text); err != nil {
		return nil, err
	}
	if err := os.Remove(filepath.Join(d.Name(), draftFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if r != nil {
		result.Next = r.after(text, q.Now)
	}
	return result, nil
}

// readDraft returns nil if there is none.
func readDraft(d *dir) (*metadata.Metadata[metadata.RootType], error) {
	b, err := os.ReadFile(filepath.Join(d.Name(), draftFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, plain(err)
	}
	root, err := metadata.Root().FromBytes(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", draftFile, err)
	}
	return root, nil
}

// next is the unsigned root that follows last.
func (q RootRequest) next(last *metadata.Metadata[metadata.RootType]) (*metadata.Metadata[metadata.RootType], error) {
	text, err := last.ToBytes(false)
	if err != nil {
		return nil, err
	}
	root, err := metadata.Root().FromBytes(text)
	if err != nil {
		return nil, err
	}
	s := &root.Signed
	root.ClearSignatures()
	s.Version++
	s.Expires = q.Now.UTC().Truncate(time.Second).Add(rootExpiry)
	for _, id := range q.Remove {
		if err := removeKey(s, id); err != nil {
			return nil, err
		}
	}
	for _, holder := range Holders {
		add := q.Add[holder]
		if s.Version == 1 { // for the first, those at hand need not be named
			found, _ := filepath.Glob(filepath.Join(q.Keys.Dir, holder, "*"+publicKey)) // the pattern is good
			add = append(slices.Clone(add), found...)
			if holder == RootKey {
				for _, path := range q.Keys.Files {
					add = append(add, strings.TrimSuffix(path, secretKey)+publicKey)
				}
			}
		}
		for _, path := range add {
			key, err := readPublic(path)
			if err != nil {
				return nil, err
			}
			for _, role := range roles[holder] {
				if err := s.AddKey(key, role); err != nil {
					return nil, err
				}
			}
		}
	}
	keys := len(s.Roles[metadata.ROOT].KeyIDs)
	switch {
	case q.Threshold > 0:
		s.Roles[metadata.ROOT].Threshold = q.Threshold
	case s.Version == 1 && keys > 2:
		s.Roles[metadata.ROOT].Threshold = 2
	}
	return root, enough(s)
}

// enough refuses a root that could not be followed any more.
func enough(s *metadata.RootType) error {
	root := s.Roles[metadata.ROOT]
	if len(root.KeyIDs) < 2 || root.Threshold >= len(root.KeyIDs) {
		return fmt.Errorf("the root would have %d keys and need %d of them: one that is lost would be the end of all updates (hint: one key more, on a medium of its own)", len(root.KeyIDs), root.Threshold)
	}
	owner := map[string]string{}
	for _, holder := range Holders {
		ids := s.Roles[roles[holder][0]].KeyIDs
		if len(ids) == 0 {
			return fmt.Errorf("there is no %s key (hint: machinemon-release keygen %s)", holder, holder)
		}
		for _, id := range ids {
			if other, twice := owner[id]; twice {
				return fmt.Errorf("the key %.12s is given for %s and for %s", id, other, holder)
			}
			owner[id] = holder
		}
	}
	return nil
}

func removeKey(s *metadata.RootType, id string) error {
	var found []string
	for known := range s.Keys {
		if len(id) >= 8 && strings.HasPrefix(known, id) {
			found = append(found, known)
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("the root has no one key whose ID begins with %q (hint: at least 8 digits, see \"status\")", id)
	}
	for role, r := range s.Roles {
		if slices.Contains(r.KeyIDs, found[0]) {
			if err := s.RevokeKey(found[0], role); err != nil {
				return err
			}
		}
	}
	return nil
}

// add signs with the root keys at hand, of this root and of the one before.
func (q RootRequest) add(root, last *metadata.Metadata[metadata.RootType]) error {
	used := false
	var why error
	for _, by := range []*metadata.Metadata[metadata.RootType]{root, last} {
		if len(by.Signed.Roles[metadata.ROOT].KeyIDs) == 0 {
			continue // there was none before the first
		}
		keys, err := q.Keys.signers(RootKey, &by.Signed, metadata.ROOT)
		if err != nil {
			why = err
			continue
		}
		for _, k := range keys {
			used = true
			pub, err := k.PublicKey()
			if err != nil {
				return err
			}
			id, err := keyID(pub)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(root.Signatures, func(s metadata.Signature) bool { return s.KeyID == id }) {
				continue
			}
			if _, err := root.Sign(k); err != nil {
				return err
			}
		}
	}
	if !used {
		return why
	}
	return nil
}

// missing says whose signatures a root lacks, as go-tuf counts them.
func missing(root, last *metadata.Metadata[metadata.RootType]) string {
	var lacks []string
	for _, by := range []struct {
		name string
		root *metadata.Metadata[metadata.RootType]
	}{{"the root before", last}, {"its own", root}} {
		if by.root.Signed.Version > 0 && by.root.VerifyDelegate(metadata.ROOT, root) != nil {
			lacks = append(lacks, fmt.Sprintf("%d keys of %s", by.root.Signed.Roles[metadata.ROOT].Threshold, by.name))
		}
	}
	return strings.Join(lacks, ", and ")
}

// after says what has to be signed anew under a new root.
func (r *repository) after(root []byte, now time.Time) string {
	if r.timestamp == nil {
		return ""
	}
	_, _, err := trust.Client{Pin: root, Clock: now}.Check(r.now)
	var refused *trust.Error
	switch {
	case err == nil:
		return ""
	case !errors.As(err, &refused):
	case refused.Role == trust.Targets:
		return "machines refuse what is published now: run \"set\", then \"verify\""
	}
	return "machines refuse what is published now: run \"refresh\", then \"verify\""
}

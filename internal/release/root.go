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

// RootRequest asks for the first root, or for the next one.
type RootRequest struct {
	Dir       string
	Keys      Keys
	Add       map[string][]string // public key files, by holder
	Remove    []string            // key IDs, or at least their first 8 digits
	Threshold int                 // of root; 0: unchanged; in the first root 2 of 3 or more, else 1 of 2
	// Draft signs the root that others have signed already, unchanged. Review gets the
	// draft before it is signed, and its error prevents that; nil: no review.
	Draft  bool
	Review func(d Draft) error
	// Pin is a root that the holder kept: it must be one of the directory's roots. "":
	// the directory's roots are trusted.
	Pin string
	Now time.Time
}

// RootResult is the outcome of a RootRequest.
type RootResult struct {
	Version int64
	Missing string // the signatures that the draft lacks; "": the root is published
	Todo    string // what the publisher must do next; "": nothing
}

var roles = map[string][]string{
	RootKey:    {metadata.ROOT},
	TargetsKey: {metadata.TARGETS},
	OnlineKey:  {metadata.SNAPSHOT, metadata.TIMESTAMP},
}

// Init makes a directory a signed one.
func Init(q RootRequest) (_ *RootResult, err error) {
	defer named(&err, "initialise "+q.Dir)
	return q.sign(func(r *signedDir) (*rootMetadata, error) {
		if r != nil {
			return nil, errors.New("it is a signed directory already (hint: see \"status\", and \"rotate\" to change its root)")
		}
		root := metadata.Root()
		root.Signed.Version = 0
		return root, nil
	})
}

// Rotate makes the next root: with other keys, or with the same for another year. It is
// published once enough keys of the root before and of the new one have signed it. Until
// then it is a draft, which the holders of the keys sign in turn.
func Rotate(q RootRequest) (_ *RootResult, err error) {
	defer named(&err, "rotate the root of "+q.Dir)
	return q.sign(func(r *signedDir) (*rootMetadata, error) {
		if r == nil {
			return nil, errNotSigned
		}
		return r.root, r.holds(q.Pin)
	})
}

func (q RootRequest) sign(begin func(*signedDir) (last *rootMetadata, err error)) (*RootResult, error) {
	d, err := openDir(q.Dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	r, err := readRoots(q.Dir)
	if err != nil {
		return nil, err
	}
	last, err := begin(r)
	if err != nil {
		return nil, err
	}
	root, err := q.choose(last)
	if err != nil {
		return nil, err
	}
	if err := q.addSignatures(root, last); err != nil {
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
		result.Todo = r.after(text, q.Now)
	}
	return result, nil
}

// choose returns the draft if the request asks for it, else a new root. It never takes
// one for the other: any user that can write to the directory can leave a draft there.
func (q RootRequest) choose(last *rootMetadata) (*rootMetadata, error) {
	draft, err := readDraft(q.Dir, last, q.Now)
	switch {
	case err != nil:
		return nil, err
	case !q.Draft && draft != nil:
		return nil, fmt.Errorf("%s awaits signatures (hint: --draft shows and signs it; remove that file to give it up)", draftFile)
	case !q.Draft:
		return q.nextRoot(last)
	case draft == nil:
		return nil, fmt.Errorf("there is no %s to sign", draftFile)
	case len(q.Add) > 0 || len(q.Remove) > 0 || q.Threshold > 0:
		return nil, errors.New("a draft is signed as it is (hint: remove " + draftFile + " to make another root)")
	}
	if q.Review != nil {
		err = q.Review(Draft{File: filepath.Join(q.Dir, draftFile), Changes: changes(&last.Signed, &draft.Signed)})
	}
	return draft, err
}

// nextRoot returns the unsigned root that follows last.
func (q RootRequest) nextRoot(last *rootMetadata) (*rootMetadata, error) {
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
		if s.Version == 1 { // the keys at hand are in the first root even if they are not named
			found, _ := filepath.Glob(filepath.Join(q.Keys.Dir, holder, "*"+publicKey)) // the pattern is valid
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

// addSignatures signs with the root keys at hand, of this root and of the one before.
func (q RootRequest) addSignatures(root, last *rootMetadata) error {
	used := false
	var why error
	for _, by := range []*rootMetadata{root, last} {
		if len(by.Signed.Roles[metadata.ROOT].KeyIDs) == 0 {
			continue // the first root has none before it
		}
		keys, err := q.Keys.signers(RootKey, &by.Signed, metadata.ROOT)
		if err != nil {
			why = err
			continue
		}
		for _, k := range keys {
			used = true
			if slices.ContainsFunc(root.Signatures, func(s metadata.Signature) bool { return s.KeyID == k.id }) {
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

// missing returns which signatures a root lacks, as go-tuf counts them.
func missing(root, last *rootMetadata) string {
	var lacks []string
	for _, by := range []struct {
		name string
		root *rootMetadata
	}{{"the root before", last}, {"its own", root}} {
		if by.root.Signed.Version > 0 && by.root.VerifyDelegate(metadata.ROOT, root) != nil {
			lacks = append(lacks, fmt.Sprintf("%d keys of %s", by.root.Signed.Roles[metadata.ROOT].Threshold, by.name))
		}
	}
	return strings.Join(lacks, ", and ")
}

// after returns what must be signed again under a new root, or "".
func (r *signedDir) after(root []byte, now time.Time) string {
	if err := r.follow(); err != nil {
		return fmt.Sprintf("what is published cannot be read: %v", plain(err))
	}
	if r.timestamp == nil {
		return ""
	}
	_, _, err := trust.Client{Pin: root, Clock: now}.Check(r.now)
	var refused *trust.Error
	switch {
	case err == nil:
		return ""
	case !errors.As(err, &refused):
	case refused.Role == trust.RoleTargets:
		return "machines refuse what is published now: run \"set\", then \"verify\""
	}
	return "machines refuse what is published now: run \"refresh\", then \"verify\""
}

package release

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// draft writes a draft into the directory: a good root v2, changed by edit.
func (s *testDir) draft(edit func(*metadata.RootType)) []byte {
	s.t.Helper()
	r, err := readRoots(s.dir)
	s.must(err)
	root, err := RootRequest{Now: s.now}.nextRoot(r.root)
	s.must(err)
	edit(&root.Signed)
	text, err := root.ToBytes(true)
	s.must(err)
	s.must(os.WriteFile(filepath.Join(s.dir, draftFile), text, 0o644))
	return text
}

// TestPlantedDraft: an attacker that can write to the directory adds keys to a draft, and
// waits until the root is renewed.
func TestPlantedDraft(t *testing.T) {
	s := newTestDir(t)
	s.publish("v1")
	stranger := Keys{Dir: t.TempDir()}
	var theirs []string
	for _, holder := range []string{TargetsKey, OnlineKey} {
		pub, err := Keygen(stranger.Dir, holder, nil)
		s.must(err)
		theirs = append(theirs, pub)
	}
	plant := func(root *metadata.RootType) {
		for i, of := range [][]string{{metadata.TARGETS}, {metadata.SNAPSHOT, metadata.TIMESTAMP}} {
			key, err := readPublic(theirs[i])
			s.must(err)
			for _, role := range of {
				root.Roles[role].KeyIDs = nil
				s.must(root.AddKey(key, role))
			}
		}
	}
	s.draft(plant)
	before := s.files()
	_, err := Rotate(RootRequest{Dir: s.dir, Keys: s.root, Now: s.now})
	s.refused(err, ".next-root.json awaits signatures")
	if !mapsEqual(before, s.files()) {
		t.Error("the draft was signed")
	}
	var seen []string
	_, err = Rotate(RootRequest{Dir: s.dir, Keys: s.root, Draft: true, Now: s.now, Review: func(d Draft) error { seen = d.Changes; return errKilled }})
	s.refused(err, errKilled.Error())
	if id := filepath.Base(theirs[0])[:12]; !slices.Contains(seen, "targets: adds the key "+id) {
		t.Errorf("it showed %q", seen)
	}

	// A review found this case: the draft is valid until 2036.
	s.draft(func(root *metadata.RootType) { plant(root); root.Expires = s.now.AddDate(10, 0, 0) })
	_, err = Rotate(RootRequest{Dir: s.dir, Keys: s.root, Draft: true, Now: s.now})
	s.refused(err, "it expires on 2036-11-01 only, and a root holds for a year")
}

// TestMalformedDraft: a draft that neither init nor rotate makes is refused, without a
// crash.
func TestMalformedDraft(t *testing.T) {
	s := newTestDir(t)
	good := s.draft(func(*metadata.RootType) {})
	raw := func(edit func(signed map[string]any)) []byte {
		var all map[string]any
		s.must(json.Unmarshal(good, &all))
		edit(all["signed"].(map[string]any))
		b, err := json.Marshal(all)
		s.must(err)
		return b
	}
	for name, tt := range map[string]struct {
		text []byte
		want string
	}{
		"nothing":      {nil, "root: it is missing"},
		"no JSON":      {[]byte("x"), "root: "},
		"no roles":     {raw(func(r map[string]any) { r["roles"] = map[string]any{} }), "signed.roles.root must be an object"},
		"null roles":   {raw(func(r map[string]any) { r["roles"] = nil }), "signed.roles must be an object"},
		"a null key":   {raw(func(r map[string]any) { r["keys"] = map[string]any{"x": nil} }), "signed.keys.x must be an object"},
		"no keys":      {raw(func(r map[string]any) { r["keys"] = map[string]any{} }), "is not among its keys"},
		"fractions":    {raw(func(r map[string]any) { r["version"] = 2.5 }), "signed.version must be a plain whole number"},
		"targets":      {raw(func(r map[string]any) { r["_type"] = "targets" }), `it is of the role "targets"`},
		"not the next": {s.draft(func(r *metadata.RootType) { r.Version = 7 }), "it is v7, and the one before it v1"},
		"expired":      {s.draft(func(r *metadata.RootType) { r.Expires = s.now }), "it expired on 2026-11-01"},
		"consistent":   {s.draft(func(r *metadata.RootType) { r.ConsistentSnapshot = false }), "consistent_snapshot must be true"},
		"one root key": {s.draft(func(r *metadata.RootType) {
			r.Roles[metadata.ROOT].KeyIDs = r.Roles[metadata.ROOT].KeyIDs[:1]
		}), "the root would have 1 keys and need 1 of them"},
		"one key twice": {s.draft(func(r *metadata.RootType) {
			ids := r.Roles[metadata.ROOT].KeyIDs
			ids[1] = ids[0]
		}), "is given for root and for root"},
		"one key, two names": {s.draft(func(r *metadata.RootType) {
			ids := r.Roles[metadata.ROOT].KeyIDs
			r.Keys["ab"] = r.Keys[ids[0]]
			ids[1] = "ab"
		}), `the root key "ab" is not named by its ID`},
		"too many needed": {s.draft(func(r *metadata.RootType) { r.Roles[metadata.TARGETS].Threshold = 2 }), "targets would have 1 keys and need 2"},
		"another for timestamp": {s.draft(func(r *metadata.RootType) {
			r.Roles[metadata.TIMESTAMP].KeyIDs = r.Roles[metadata.TARGETS].KeyIDs
		}), "snapshot and timestamp must have the same keys"},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.copyTo(filepath.Join(t.TempDir(), "dir"))
			s.t = t
			s.must(os.WriteFile(filepath.Join(s.dir, draftFile), tt.text, 0o644))
			before := s.files()
			for _, draft := range []bool{true, false} {
				_, err := Rotate(RootRequest{Dir: s.dir, Keys: s.root, Draft: draft, Now: s.now})
				s.refused(err, tt.want)
			}
			status, err := ReadStatus(s.dir, s.now)
			s.must(err)
			if status.Draft == nil {
				t.Fatal("status does not show it")
			}
			s.refused(status.Draft.Err, tt.want)
			if !mapsEqual(before, s.files()) {
				t.Error("the directory changed")
			}
		})
	}
}

// TestPlantedRoot: no root is built on one that the keys of the root before did not sign.
func TestPlantedRoot(t *testing.T) {
	s := newTestDir(t)
	text := s.draft(func(*metadata.RootType) {})
	s.must(os.Remove(filepath.Join(s.dir, draftFile)))
	s.must(os.WriteFile(filepath.Join(s.dir, "2.root.json"), text, 0o644))
	_, err := Rotate(RootRequest{Dir: s.dir, Keys: s.root, Now: s.now})
	s.refused(err, "root v2: too few valid signatures of the keys that a root names for it")
	s.must(os.WriteFile(filepath.Join(s.dir, "2.root.json"), []byte(s.files()["1.root.json"]), 0o644))
	_, err = Rotate(RootRequest{Dir: s.dir, Keys: s.root, Now: s.now})
	s.refused(err, "root v1: it does not follow root v1")
}

// TestReplacedRoots: an attacker replaces the directory's first root by one with the
// holder's keys and their own. It does not follow from the root that the holder kept.
func TestReplacedRoots(t *testing.T) {
	s := newTestDir(t)
	kept := filepath.Join(t.TempDir(), "1.root.json")
	s.must(os.WriteFile(kept, []byte(s.files()["1.root.json"]), 0o644))
	q := RootRequest{Dir: s.dir, Keys: s.root, Pin: kept, Now: s.now}
	_, err := Rotate(q)
	s.must(err)
	_, err = Rotate(q)
	s.must(err)

	add := map[string][]string{RootKey: nil}
	for _, holder := range Holders {
		dir := s.keys.Dir
		if holder == RootKey {
			dir = s.root.Dir
		}
		add[holder], _ = filepath.Glob(filepath.Join(dir, holder, "*.pub"))
	}
	stranger := Keys{Dir: t.TempDir()}
	_, err = Keygen(stranger.Dir, RootKey, nil)
	s.must(err)
	q.Dir = t.TempDir()
	_, err = Init(RootRequest{Dir: q.Dir, Keys: stranger, Add: add, Threshold: 1, Now: s.now})
	s.must(err)
	_, err = Rotate(q)
	s.refused(err, "its roots do not follow from "+kept+": they were replaced")
}

package release

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/machinemon/machinemon-update/internal/trust"
)

// TestStolenOnlineKey: the online key is stolen and used, and the root replaces it.
func TestStolenOnlineKey(t *testing.T) {
	s := newTestDir(t)
	s.publish("v1")
	e, err := beginEdit(s.dir, s.keys.refreshing)
	s.must(err)
	r := e.signed
	r.timestamp.Signed.Version = math.MaxInt64
	r.timestamp.ClearSignatures()
	text, err := signed(r.timestamp, e.keys.online)
	s.must(err)
	s.must(e.replace(trust.TimestampFile, text))
	e.Close()
	machine, err := os.ReadFile(filepath.Join(s.dir, "1.root.json"))
	s.must(err)
	_, state, err := trust.Client{Pin: machine, Clock: s.now}.Collect(filesOf(s.dir))
	s.must(err)
	_, err = Refresh(s.dir, s.keys, s.now)
	s.refused(err, "no machine would accept it: timestamp v1: it is older than timestamp v9223372036854775807")

	stolen := r.root.Signed.Roles[metadata.TIMESTAMP].KeyIDs[0]
	result, err := Rotate(RootRequest{Dir: s.dir, Keys: s.root, Add: map[string][]string{OnlineKey: {s.keygen(OnlineKey)}}, Remove: []string{stolen[:12]}, Now: s.now})
	s.must(err)
	if result.Version != 2 || result.Missing != "" || !strings.Contains(result.Todo, `run "refresh"`) {
		t.Errorf("got %+v", result)
	}
	_, err = Refresh(s.dir, s.keys, s.now)
	s.must(err)
	s.verify("v1")
	if _, _, err := (trust.Client{Pin: machine, State: state, Clock: s.now}).Collect(filesOf(s.dir)); err != nil {
		t.Error(err)
	}
}

// TestRootInTurn: three people have a root key each, two must sign, and do so in turn.
func TestRootInTurn(t *testing.T) {
	s := newTestDir(t) // for its targets and online keys
	s.dir = filepath.Join(t.TempDir(), "repo")
	s.must(os.Mkdir(s.dir, 0o755))
	hands := make([]Keys, 4)
	add := map[string][]string{}
	for i := range hands {
		hands[i].Dir = t.TempDir()
		pub, err := Keygen(hands[i].Dir, RootKey, nil)
		s.must(err)
		if i < 3 {
			add[RootKey] = append(add[RootKey], pub)
		}
	}
	for _, holder := range []string{TargetsKey, OnlineKey} {
		found, _ := filepath.Glob(filepath.Join(s.keys.Dir, holder, "*.pub"))
		add[holder] = found
	}
	one, err := Init(RootRequest{Dir: s.dir, Keys: hands[0], Add: add, Now: s.now})
	s.must(err)
	if one.Missing != "2 keys of its own" {
		t.Errorf("got %+v", one)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "1.root.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("published with one signature of two")
	}
	two, err := Init(RootRequest{Dir: s.dir, Keys: hands[1], Draft: true, Now: s.now})
	s.must(err)
	if *two != (RootResult{Version: 1}) {
		t.Errorf("got %+v", two)
	}
	s.publish("v1")

	// A day later the first key is lost and replaced: old and new signatures count.
	s.now = s.now.Add(day)
	lost := strings.TrimSuffix(filepath.Base(add[RootKey][0]), publicKey)
	fresh, _ := filepath.Glob(filepath.Join(hands[3].Dir, RootKey, "*.pub"))
	change := RootRequest{Dir: s.dir, Keys: hands[3], Add: map[string][]string{RootKey: fresh}, Remove: []string{lost}, Now: s.now}
	result, err := Rotate(change)
	s.must(err)
	if result.Missing != "2 keys of the root before, and 2 keys of its own" {
		t.Errorf("got %+v", result)
	}
	_, err = Rotate(change)
	s.refused(err, ".next-root.json awaits signatures (hint: --draft shows and signs it; remove that file to give it up)")
	change.Draft = true
	_, err = Rotate(change)
	s.refused(err, "a draft is signed as it is")

	// A signer sees the draft before signing it, and can refuse.
	fresher := strings.TrimSuffix(filepath.Base(fresh[0]), publicKey)
	want := Draft{File: filepath.Join(s.dir, draftFile), Changes: []string{"version: 2, before 1", "expires: 2027-11-02, before 2027-11-01",
		"root: adds the key " + fresher, "root: removes the key " + lost}}
	status, err := ReadStatus(s.dir, s.now)
	s.must(err)
	if !reflect.DeepEqual(status.Draft, &want) {
		t.Errorf("status shows %+v", status.Draft)
	}
	before := s.files()
	_, err = Rotate(RootRequest{Dir: s.dir, Keys: hands[1], Draft: true, Now: s.now, Review: func(d Draft) error {
		if !reflect.DeepEqual(d, want) {
			t.Errorf("got  %q\nwant %q", d, want)
		}
		return errKilled
	}})
	if !errors.Is(err, errKilled) || !mapsEqual(before, s.files()) {
		t.Errorf("signed in spite of %v", err)
	}
	result, err = Rotate(RootRequest{Dir: s.dir, Keys: hands[1], Draft: true, Now: s.now})
	s.must(err)
	if result.Missing != "2 keys of the root before" {
		t.Errorf("got %+v", result)
	}
	draft := s.files()[draftFile]
	result, err = Rotate(RootRequest{Dir: s.dir, Keys: hands[2], Draft: true, Now: s.now})
	s.must(err)
	if *result != (RootResult{Version: 2}) {
		t.Errorf("got %+v", result)
	}
	s.verify("v1")

	// The publisher was killed before it removed the draft, which is none any more.
	s.must(os.WriteFile(filepath.Join(s.dir, draftFile), []byte(draft), 0o644))
	_, err = Rotate(RootRequest{Dir: s.dir, Keys: hands[2], Draft: true, Now: s.now})
	s.refused(err, "there is no .next-root.json to sign")
	_, err = Rotate(RootRequest{Dir: s.dir, Keys: hands[2], Now: s.now})
	s.must(err)
}

func TestRootRefused(t *testing.T) {
	s := newTestDir(t)
	rotate := func(q RootRequest) error {
		q.Dir, q.Keys, q.Now = s.dir, s.root, s.now
		_, err := Rotate(q)
		return err
	}
	roots, _ := filepath.Glob(filepath.Join(s.root.Dir, RootKey, "*.pub"))
	id := func(path string) string { return strings.TrimSuffix(filepath.Base(path), publicKey) }
	s.refused(rotate(RootRequest{Remove: []string{id(roots[0])}}), "the root would have 1 keys and need 1 of them")
	s.refused(rotate(RootRequest{Threshold: 2}), "the root would have 2 keys and need 2 of them")
	s.refused(rotate(RootRequest{Remove: []string{"0000"}}), `no one key whose ID begins with "0000"`)
	s.refused(rotate(RootRequest{Add: map[string][]string{OnlineKey: {roots[0]}}}), "is given for root and for online")
	s.refused(rotate(RootRequest{Add: map[string][]string{OnlineKey: {"nowhere.pub"}}}), "cannot read nowhere.pub: no such file")
	online, _ := filepath.Glob(filepath.Join(s.keys.Dir, OnlineKey, "*.pub"))
	s.refused(rotate(RootRequest{Remove: []string{id(online[0])}}), "there is no online key")
	s.root = Keys{Dir: s.keys.Dir}
	s.refused(rotate(RootRequest{}), "there is no root key in")
	if _, err := os.Stat(filepath.Join(s.dir, draftFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a draft is left")
	}
}

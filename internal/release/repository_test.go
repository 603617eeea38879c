package release

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/trust"
)

var first = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// testDir is a signed directory with its keys; root's keys are in another directory.
type testDir struct {
	t          *testing.T
	dir        string
	keys, root Keys
	now        time.Time
}

func newTestDir(t *testing.T) *testDir {
	t.Helper()
	base := t.TempDir()
	s := &testDir{t: t, dir: filepath.Join(base, "repo"), keys: Keys{Dir: filepath.Join(base, "keys")}, root: Keys{Dir: filepath.Join(base, "usb")}, now: first}
	s.must(os.Mkdir(s.dir, 0o755))
	add := map[string][]string{}
	for _, holder := range []string{RootKey, RootKey, TargetsKey, OnlineKey} {
		add[holder] = append(add[holder], s.keygen(holder))
	}
	got, err := Init(RootRequest{Dir: s.dir, Keys: s.root, Add: add, Now: s.now})
	s.must(err)
	if *got != (RootResult{Version: 1}) {
		t.Errorf("got %+v", got)
	}
	return s
}

func (s *testDir) keygen(holder string) string {
	s.t.Helper()
	dir := s.keys.Dir
	if holder == RootKey {
		dir = s.root.Dir
	}
	pub, err := Keygen(dir, holder, nil)
	s.must(err)
	return pub
}

func (s *testDir) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *testDir) request(version string) Request {
	in := writeArchive(s.t, s.t.TempDir(), "agent-linux-amd64", "program "+version)
	return Request{Dir: s.dir, Version: version, Archives: []string{in}, Keys: s.keys, Deltas: testDeltas, Now: s.now}
}

func (s *testDir) publish(version string) {
	s.t.Helper()
	_, changed, err := Publish(s.request(version))
	s.must(err)
	if !changed {
		s.t.Error("nothing changed")
	}
	s.verify(version)
}

func (s *testDir) verify(version string) *Verified {
	s.t.Helper()
	v, err := Verify(s.dir, "", s.now)
	s.must(err)
	if v.Release.Manifest.Version != version {
		s.t.Errorf("a machine sees %s, want %s", v.Release.Manifest.Version, version)
	}
	return v
}

func (s *testDir) refused(err error, want string) {
	s.t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		s.t.Errorf("got  %v\nwant …%s…", err, want)
	}
}

func (s *testDir) files() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(s.dir)
	s.must(err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(s.dir, e.Name()))
		s.must(err)
		all[e.Name()] = string(b)
	}
	return all
}

func (s *testDir) copyTo(dir string) *testDir {
	s.t.Helper()
	s.must(os.CopyFS(dir, os.DirFS(s.dir)))
	other := *s
	other.dir = dir
	return &other
}

func TestSigned(t *testing.T) {
	testkit.Slow(t)
	s := newTestDir(t)
	_, err := Refresh(s.dir, s.keys, s.now)
	s.refused(err, "nothing is published yet")
	_, err = Init(RootRequest{Dir: s.dir, Keys: s.root, Now: s.now})
	s.refused(err, "it is a signed directory already")
	s.publish("v1")
	s.publish("v2")
	if _, changed, err := Publish(s.request("v2")); err != nil || changed {
		t.Errorf("changed %v, %v", changed, err)
	}

	// Machines accept the directory six days after a refresh but not eight, and again
	// after the next refresh.
	s.now = first.Add(6 * day)
	s.verify("v2")
	s.now = first.Add(8 * day)
	_, err = Verify(s.dir, "", s.now)
	s.refused(err, "timestamp v2: expired on 2026-11-08T12:00:00Z")
	status, err := Refresh(s.dir, s.keys, s.now)
	s.must(err)
	if next := status.NextToExpire(); next.Role != trust.RoleSnapshot || !next.Expires.Equal(s.now.Add(7*day)) {
		t.Errorf("next to expire: %+v", next)
	}
	s.verify("v2")

	// refresh cannot renew what the targets key signed; set can.
	s.now = first.Add(46 * day)
	before := s.files()
	_, err = Refresh(s.dir, s.keys, s.now)
	s.refused(err, "no machine would accept it: targets v2: expired on 2026-12-16T12:00:00Z")
	if after := s.files(); len(after) != len(before) || after[trust.TimestampFile] != before[trust.TimestampFile] {
		t.Error("a refused refresh changed the directory")
	}
	_, _, err = Set(SetRequest{Dir: s.dir, Keys: s.keys, Now: s.now})
	s.must(err)
	s.verify("v2")

	percent, disabled, none := 10, true, ""
	m, _, err := Set(SetRequest{Dir: s.dir, Keys: s.keys, Rollout: &percent, Disabled: &disabled, MinVersion: &none, Retry: true, Now: s.now})
	s.must(err)
	if v := s.verify("v2"); m.Sequence != 3 || v.Release.Manifest.Rollout.Percent != 10 || !v.Release.Manifest.Disabled {
		t.Errorf("got %+v", v.Release.Manifest)
	}
}

// TestSnapshotsKept: old snapshots are removed, and a damaged directory is reported.
func TestSnapshotsKept(t *testing.T) {
	testkit.Slow(t)
	s := newTestDir(t)
	s.publish("v1")
	for range snapshotsKept + 5 {
		_, err := Refresh(s.dir, s.keys, s.now)
		s.must(err)
	}
	s.verify("v1")
	snapshots, _ := filepath.Glob(filepath.Join(s.dir, "*.snapshot.json"))
	if len(snapshots) != snapshotsKept+1 {
		t.Errorf("%d snapshots", len(snapshots))
	}
	s.must(os.WriteFile(filepath.Join(s.dir, "1.targets.json"), []byte(`{"signed":{"_type":"targets","version":1,"targets":{"x":null}}}`), 0o644))
	_, err := Refresh(s.dir, s.keys, s.now)
	s.refused(err, "cannot refresh "+s.dir+": targets: signatures must be an array")
}

// TestRootKeyReadable: nothing is published where a root key can be read.
func TestRootKeyReadable(t *testing.T) {
	s := newTestDir(t)
	s.publish("v1")
	before := s.files()
	_, err := Keygen(s.keys.Dir, RootKey, nil)
	s.must(err)
	_, _, err = Publish(s.request("v2"))
	s.refused(err, "can be read here (hint: keep root keys")
	_, err = Refresh(s.dir, s.keys, s.now)
	s.refused(err, "can be read here (hint: keep root keys")
	_, _, err = Set(SetRequest{Dir: s.dir, Keys: s.keys, Retry: true, Now: s.now})
	s.refused(err, "can be read here (hint: keep root keys")
	if len(s.files()) != len(before) {
		t.Error("the directory changed")
	}
}

var errKilled = errors.New("killed")

// TestInterrupted: a publisher that dies after any step leaves the previous release or
// the new one. The next run continues from there, with the same result.
func TestInterrupted(t *testing.T) {
	testkit.Slow(t)
	base := newTestDir(t)
	base.publish("v1")
	q := base.request("v2")
	var steps []string
	defer func(f func(string) error) { kept = f }(kept)
	kept = func(name string) error { steps = append(steps, name); return nil }
	whole := base.copyTo(filepath.Join(t.TempDir(), "whole"))
	q.Dir = whole.dir
	_, _, err := Publish(q)
	base.must(err)
	if len(steps) != 7 || !strings.HasSuffix(steps[1], ".delta.zst") || !strings.HasSuffix(steps[0], ".tar.gz") || steps[5] != trust.TimestampFile || steps[6] != manifest.FileName {
		t.Fatalf("steps %v", steps)
	}

	for i, step := range steps {
		t.Run(fmt.Sprint(i, " ", step), func(t *testing.T) {
			s := base.copyTo(filepath.Join(t.TempDir(), "repo"))
			s.t = t
			kept = func(name string) error {
				if name == step {
					return errKilled
				}
				return nil
			}
			q := q
			q.Dir = s.dir
			if _, _, err := Publish(q); !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			want := "v1"
			if i >= 5 { // the timestamp is there
				want = "v2"
			}
			b, err := os.ReadFile(filepath.Join(s.dir, "1.root.json"))
			s.must(err)
			if r, _, err := (trust.Client{Pin: b, Clock: s.now}).Collect(filesOf(s.dir)); err != nil || r.Manifest.Version != want {
				t.Errorf("a machine sees %+v, %v", r, err)
			}
			plain, err := readManifest(filepath.Join(s.dir, manifest.FileName))
			s.must(err)
			if wantPlain := map[bool]string{true: "v2", false: "v1"}[i == 6]; plain.Version != wantPlain {
				t.Errorf("a checksum client sees %s", plain.Version)
			}

			// Another publication starts from none of this one, or from all of it.
			kept = func(string) error { return nil }
			other := s.copyTo(filepath.Join(t.TempDir(), "other"))
			other.t = t
			_, err = Refresh(other.dir, other.keys, other.now)
			s.must(err)
			other.verify(want)
			if want == "v1" {
				for name := range other.files() {
					if strings.HasPrefix(name, "2.targets") || hashed.MatchString(name) && !strings.Contains(other.files()[name], `"v1"`) {
						t.Errorf("%s is left", name)
					}
				}
			}
			// The same publication runs again.
			_, _, err = Publish(q)
			s.must(err)
			s.verify("v2")
			if got, want := s.files(), whole.files(); !mapsEqual(got, want) {
				t.Errorf("another end than without the interruption: %v", names(got))
			}
		})
	}
}

func mapsEqual(a, b map[string]string) bool {
	return slices.Equal(names(a), names(b)) && !slices.ContainsFunc(names(a), func(n string) bool { return a[n] != b[n] })
}

func names(m map[string]string) []string {
	var all []string
	for n := range m {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

// TestDeterministic: the same archives, keys and time give the same bytes.
func TestDeterministic(t *testing.T) {
	s := newTestDir(t)
	other := s.copyTo(filepath.Join(t.TempDir(), "other"))
	for _, version := range []string{"v1", "v2"} {
		q := s.request(version)
		_, _, err := Publish(q)
		s.must(err)
		q.Dir = other.dir
		_, _, err = Publish(q)
		s.must(err)
	}
	if !mapsEqual(s.files(), other.files()) {
		t.Errorf("got %v and %v", names(s.files()), names(other.files()))
	}
}

package trust

import (
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// A clock that was set back does not bring an expired release back to life, and
// one that was ahead does not end the updates.
func TestTime(t *testing.T) {
	year := 365 * day
	for _, row := range []struct {
		name string
		play func(r *repo)
	}{
		{"set back", func(r *repo) {
			r.now = start.Add(6 * day)
			r.ours(1)
			r.now = time.Unix(0, 0)
			r.ours(1) // it was good six days on, and may be
			r.timestamp.Signed.Expires = start.Add(5 * day)
			r.timestamp.Signed.Version++
			r.resign()
			r.ours("timestamp v3: expired on 2026-11-06T12:00:00Z (it is 2026-11-07T12:00:00Z here)")
		}},
		{"far ahead, and right again", func(r *repo) {
			r.ours(1)
			r.now = start.Add(74 * year)
			r.ours("root v1: expired on 2027-11-01T12:00:00Z (it is 2100-10-14T12:00:00Z here)")
			r.now = start.Add(day)
			r.ours(1)
		}},
		{"ahead within the timestamp, and right again", func(r *repo) {
			r.now = start.Add(7 * day)
			r.ours(1)
			r.now = start.Add(day)
			r.timestamp.Signed.Expires, r.snapshot.Signed.Expires = r.now.Add(7*day), r.now.Add(7*day)
			r.release(2)
			r.ours(2)
		}},
		{"seen only when all of it was verified", func(r *repo) {
			r.now = start.Add(6 * day)
			delete(r.files, "1.targets.json")
			r.ours("targets: it is missing")
			if !r.state.Seen.IsZero() {
				r.t.Errorf("seen %s", r.state.Seen)
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) { row.play(newRepo(t)) })
	}
	r := newRepo(t)
	_, state, err := Client{Pin: r.pin, Clock: time.Unix(0, 0), Built: start.Add(8 * day)}.Check(r.get())
	if want := "timestamp v2: expired on 2026-11-08T12:00:00Z (it is 2026-11-09T12:00:00Z here)"; err == nil || err.Error() != want {
		t.Errorf("before it was built: %v", err)
	}
	if !state.Seen.IsZero() {
		t.Errorf("seen %s", state.Seen)
	}
}

// A State belongs to its pin, and one that does not hold counts for nothing.
func TestState(t *testing.T) {
	r := newRepo(t)
	r.replaceOnline()
	r.release(2)
	r.check(2)
	if r.state.Pin != manifest.Digest(r.pin) || len(r.state.Roots) != 1 || r.state.Timestamp == nil || !r.state.Seen.Equal(start) {
		t.Errorf("got %+v", r.state)
	}
	// The same repository by its second root: nothing of the old state is left.
	pin := r.pin
	r.pin = r.files["2.root.json"]
	r.ours(2)
	if r.state.Pin != manifest.Digest(r.pin) || len(r.state.Roots) != 0 {
		t.Errorf("got %+v", r.state)
	}
	r.pin = pin
	r.ours(2)

	// Another repository of the same keys: it begins at the beginning.
	other := newRepo(t)
	other.root.Signed.Expires = start.Add(day)
	other.pin = sign(other, other.root, other.keys[Root]...)
	other.release(3)
	other.state = newRepo(t).played(5)
	other.ours(3)

	for name, damage := range map[string]func(*State){
		"root":      func(s *State) { s.Roots = [][]byte{[]byte("x")} },
		"timestamp": func(s *State) { s.Timestamp = []byte(`{"signed":null}`) },
		"snapshot":  func(s *State) { s.Snapshot = s.Targets },
		"targets":   func(s *State) { s.Targets = s.Snapshot },
		"all":       func(s *State) { *s = State{Pin: s.Pin} },
	} {
		t.Run(name, func(t *testing.T) {
			r := *r
			r.t = t
			damage(&r.state)
			r.ours(2)
		})
	}
}

// What the caller handed in stays what it was.
func TestStateIsCopied(t *testing.T) {
	r := newRepo(t)
	r.rotate(r.keys[Root]...)
	r.check(1)
	before := r.state
	before.Roots = append(make([][]byte, 0, 8), before.Roots...)
	r.rotate(r.keys[Root]...)
	spare := before.Roots[:2]
	if _, _, err := (Client{Pin: r.pin, State: before, Clock: start}).Check(r.get()); err != nil {
		t.Fatal(err)
	}
	if spare[1] != nil {
		t.Error("the caller's roots were written to")
	}
}

func TestNext(t *testing.T) {
	r := newRepo(t)
	b := r.get()
	for _, row := range []struct {
		role Role
		doc  []byte
		want string
		most int64
	}{
		{Root, r.pin, "2.root.json", MaxRoot},
		{Timestamp, b.Timestamp, "2.snapshot.json", MaxSnapshot},
		{Snapshot, b.Snapshot, "1.targets.json", MaxTargets},
		{Targets, b.Targets, manifest.Digest(text(1)) + ".client-manifest.json", manifest.MaxSize},
	} {
		if got, most, err := Next(row.role, row.doc); got != row.want || most != row.most || err != nil {
			t.Errorf("%s: got %s, %d, %v", row.role, got, most, err)
		}
		if got, _, err := Next(row.role, []byte("{}")); err == nil {
			t.Errorf("%s: got %s from nothing", row.role, got)
		}
	}
}

func TestTerms(t *testing.T) {
	m, err := manifest.Parse(text(7))
	if err != nil {
		t.Fatal(err)
	}
	p := m.Platforms["linux-amd64"]
	p.Contents = map[string]manifest.Content{"agent": {}}
	m.Platforms["linux-amd64"] = p
	m.MinVersion = "v0.10.0"
	for _, row := range []struct {
		name   string
		change func(*Terms, *manifest.Manifest)
		want   string
	}{
		{"good", func(*Terms, *manifest.Manifest) {}, ""},
		{"at the floor", func(t *Terms, _ *manifest.Manifest) { t.Floor = 7 }, ""},
		{"below the floor", func(t *Terms, _ *manifest.Manifest) { t.Floor = 8 }, "its sequence 7 is older than 8, which was committed here"},
		{"another product", func(t *Terms, _ *manifest.Manifest) { t.Product = "server" }, `it is of product "agent", this target takes "server"`},
		{"no sequence", func(_ *Terms, m *manifest.Manifest) { m.Sequence = 0 }, "it has no sequence"},
		{"another platform", func(t *Terms, _ *manifest.Manifest) { t.Platform = "linux-arm64" }, "v7 has nothing for linux-arm64 (it has linux-amd64)"},
		{"no contents", func(_ *Terms, m *manifest.Manifest) {
			m.Platforms = map[string]manifest.Platform{"linux-amd64": {File: "a"}}
		}, "it does not say what is in a"},
		{"min_version", func(t *Terms, _ *manifest.Manifest) { t.Installed = "0.9.3" }, "it needs at least v0.10.0 first, and 0.9.3 is installed"},
		{"min_version itself", func(t *Terms, _ *manifest.Manifest) { t.Installed = "v0.10.0" }, ""},
		{"no semantic version", func(t *Terms, _ *manifest.Manifest) { t.Installed = "build-3" }, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			terms, doc := Terms{Product: "agent", Platform: "linux-amd64"}, *m
			row.change(&terms, &doc)
			if err := terms.Check(&doc); (err == nil) != (row.want == "") || err != nil && err.Error() != row.want {
				t.Errorf("got %v", err)
			}
		})
	}
}

// played is the state of a machine that has seen this many releases.
func (r *repo) played(n int) State {
	for i := range n {
		r.release(i + 1)
	}
	r.now = start.Add(6 * day)
	r.ours(n)
	return r.state
}

package trust_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/trust"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

// TestTime checks that a clock that was set back does not make an expired release valid,
// and that one that was ahead does not end the updates.
func TestTime(t *testing.T) {
	year := 365 * day
	for _, row := range []struct {
		name string
		play func(r *machine)
	}{
		{"set back", func(r *machine) {
			r.now = start.Add(6 * day)
			r.ours(1)
			r.now = time.Unix(0, 0)
			r.ours(1) // it was valid six days later, so it is accepted
			r.Timestamp.Signed.Expires = start.Add(5 * day)
			r.Timestamp.Signed.Version++
			r.Resign()
			r.ours("timestamp v2: expired on 2026-11-06T12:00:00Z (it is 2026-11-07T12:00:00Z here)")
		}},
		{"far ahead, and right again", func(r *machine) {
			r.ours(1)
			r.now = start.Add(74 * year)
			r.ours("root v1: expired on 2027-11-01T12:00:00Z (it is 2100-10-14T12:00:00Z here)")
			r.now = start.Add(day)
			r.ours(1)
		}},
		{"ahead within the timestamp, and right again", func(r *machine) {
			r.now = start.Add(7 * day)
			r.ours(1)
			r.now = start.Add(day)
			r.Timestamp.Signed.Expires, r.Snapshot.Signed.Expires = r.now.Add(7*day), r.now.Add(7*day)
			r.Release(2)
			r.ours(2)
		}},
		{"seen only when all of it was verified", func(r *machine) {
			r.now = start.Add(6 * day)
			delete(r.Files, "1.targets.json")
			r.ours("targets: it is missing")
			if !r.state.Seen.IsZero() {
				r.t.Errorf("seen %s", r.state.Seen)
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) { row.play(newMachine(t)) })
	}
	r := newMachine(t)
	_, state, err := trust.Client{Pin: r.Pin, Clock: time.Unix(0, 0), Built: start.Add(8 * day)}.Check(r.Bundle(1))
	if want := "timestamp v1: expired on 2026-11-08T12:00:00Z (it is 2026-11-09T12:00:00Z here)"; err == nil || err.Error() != want {
		t.Errorf("before it was built: %v", err)
	}
	if !state.Seen.IsZero() {
		t.Errorf("seen %s", state.Seen)
	}
}

// TestState checks that a State is valid for its pin only, and invalid parts are ignored.
func TestState(t *testing.T) {
	r := newMachine(t)
	r.ReplaceOnline()
	r.Release(2)
	r.ours(2)
	if r.state.Pin != manifest.Digest(r.Pin) || len(r.state.Roots) != 1 || r.state.Timestamp == nil || !r.state.Seen.Equal(start) {
		t.Errorf("got %+v", r.state)
	}
	// The second root of the same repository as pin: nothing of the old state is used.
	pin := r.Pin
	r.Pin = r.Files["2.root.json"]
	r.ours(2)
	if r.state.Pin != manifest.Digest(r.Pin) || len(r.state.Roots) != 0 {
		t.Errorf("got %+v", r.state)
	}
	r.Pin = pin
	r.ours(2)

	// Another repository with the same keys: the client begins without state.
	other := newMachine(t)
	other.Root.Signed.Expires = start.Add(day)
	other.Pin = trusttest.Sign(other.Repo, other.Root, other.Keys[trust.RoleRoot]...)
	other.Release(3)
	other.state = newMachine(t).played(5)
	other.ours(3)

	for name, damage := range map[string]func(*trust.State){
		"root":      func(s *trust.State) { s.Roots = [][]byte{[]byte("x")} },
		"timestamp": func(s *trust.State) { s.Timestamp = []byte(`{"signed":null}`) },
		"snapshot":  func(s *trust.State) { s.Snapshot = s.Targets },
		"targets":   func(s *trust.State) { s.Targets = s.Snapshot },
		"a form of snapshot that go-tuf cannot read": func(s *trust.State) { s.Snapshot = []byte(`{"signed":null}`) },
		"all": func(s *trust.State) { *s = trust.State{Pin: s.Pin} },
	} {
		t.Run(name, func(t *testing.T) {
			r := *r
			r.t = t
			damage(&r.state)
			r.ours(2)
		})
	}
}

// TestStateIsCopied checks that the caller's State is not changed.
func TestStateIsCopied(t *testing.T) {
	r := newMachine(t)
	r.SignRoot()
	r.ours(1)
	before := r.state
	before.Roots = append(make([][]byte, 0, 8), before.Roots...)
	r.SignRoot()
	spare := before.Roots[:2]
	if _, _, err := (trust.Client{Pin: r.Pin, State: before, Clock: start}).Check(r.Bundle(1)); err != nil {
		t.Fatal(err)
	}
	if spare[1] != nil {
		t.Error("the caller's roots were written to")
	}
}

// TestOtherKinds checks that a key need not be of ed25519.
func TestOtherKinds(t *testing.T) {
	r := newMachine(t)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	r.must(err)
	k, err := signature.LoadSigner(private, crypto.SHA256)
	r.must(err)
	r.Revoke(trust.RoleTimestamp, r.Keys[trust.RoleTimestamp][0])
	r.must(r.Root.Signed.AddKey(trusttest.Public(k), string(trust.RoleTimestamp)))
	r.Keys[trust.RoleTimestamp] = []signature.Signer{k}
	r.SignRoot()
	r.Release(2)
	r.ours(2)
}

func TestNext(t *testing.T) {
	r := newMachine(t)
	b := r.Bundle(1)
	for _, row := range []struct {
		role trust.Role
		doc  []byte
		want string
		most int64
	}{
		{trust.RoleRoot, r.Pin, "2.root.json", trust.MaxRoot},
		{trust.RoleTimestamp, b.Timestamp, "1.snapshot.json", trust.MaxSnapshot},
		{trust.RoleSnapshot, b.Snapshot, "1.targets.json", trust.MaxTargets},
		{trust.RoleTargets, b.Targets, manifest.Digest(r.Files[manifest.FileName]) + ".client-manifest.json", manifest.MaxSize},
	} {
		if got, most, err := trust.Next(row.role, row.doc); got != row.want || most != row.most || err != nil {
			t.Errorf("%s: got %s, %d, %v", row.role, got, most, err)
		}
		if got, _, err := trust.Next(row.role, []byte("{}")); err == nil {
			t.Errorf("%s: got %s from nothing", row.role, got)
		}
	}
}

// TestNextOfTargets checks that a digest which is none becomes no part of a file's name, and
// that other names in the targets are ignored.
func TestNextOfTargets(t *testing.T) {
	r := newMachine(t)
	digest := manifest.Digest(r.Files[manifest.FileName])
	doc := r.Bundle(1).Targets
	if got, _, err := trust.Next(trust.RoleTargets, bytes.Replace(doc, []byte(digest), []byte("../../x"), 1)); err == nil {
		t.Errorf("got %s", got)
	}
	more := `"targets":{"zzz":{"hashes":{"sha256":"` + strings.Repeat("e", 64) + `"},"length":1},`
	if got, _, err := trust.Next(trust.RoleTargets, bytes.Replace(doc, []byte(`"targets":{`), []byte(more), 1)); err != nil || got != digest+"."+manifest.FileName {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestTerms(t *testing.T) {
	m := release()
	m.Version, m.Sequence = "v7", 7
	m.MinVersion = "v0.10.0"
	for _, row := range []struct {
		name   string
		change func(*trust.Terms, *manifest.Manifest)
		want   string
	}{
		{"good", func(*trust.Terms, *manifest.Manifest) {}, ""},
		{"at the floor", func(t *trust.Terms, _ *manifest.Manifest) { t.Floor = 7 }, ""},
		{"below the floor", func(t *trust.Terms, _ *manifest.Manifest) { t.Floor = 8 }, "its sequence 7 is older than 8, which was committed here"},
		{"another product", func(t *trust.Terms, _ *manifest.Manifest) { t.Product = "server" }, `it is of product "agent", this target takes "server"`},
		{"no sequence", func(_ *trust.Terms, m *manifest.Manifest) { m.Sequence = 0 }, "it has no sequence"},
		{"another platform", func(t *trust.Terms, _ *manifest.Manifest) { t.Platform = "linux-arm64" }, "v7 has nothing for linux-arm64 (it has linux-amd64)"},
		{"no contents", func(_ *trust.Terms, m *manifest.Manifest) {
			m.Platforms = map[string]manifest.Platform{"linux-amd64": {File: "a"}}
		}, "it does not say what is in a"},
		{"min_version", func(t *trust.Terms, _ *manifest.Manifest) { t.Installed = "0.9.3" }, "it needs at least v0.10.0 first, and 0.9.3 is installed (hint: install v0.10.0 or a later version before it, by machinemon-update import or by hand)"},
		{"min_version itself", func(t *trust.Terms, _ *manifest.Manifest) { t.Installed = "v0.10.0" }, ""},
		{"no semantic version", func(t *trust.Terms, _ *manifest.Manifest) { t.Installed = "build-3" }, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			terms, doc := trust.Terms{Product: "agent", Platform: "linux-amd64"}, *m
			row.change(&terms, &doc)
			if err := terms.Check(&doc); (err == nil) != (row.want == "") || err != nil && err.Error() != row.want {
				t.Errorf("got %v", err)
			}
		})
	}
}

// played returns the state of a machine that accepted this many releases.
func (r *machine) played(n int) trust.State {
	for i := range n {
		r.Release(i + 1)
	}
	r.now = start.Add(6 * day)
	r.ours(n)
	return r.state
}

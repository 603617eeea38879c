package trust_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/trust"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

// verifying is a machine whose roles verify the releases of a repository.
type verifying struct {
	*trusttest.Repo
	trust.Verifier
	t testing.TB
}

func newVerifying(t *testing.T) *verifying {
	varDir, runDir := testkit.Tree(t)
	v := &verifying{Repo: trusttest.New(t, release()), t: t}
	v.Verifier = trust.Verifier{Tree: state.Tree{Var: varDir, Run: runDir}, Target: "agent", Role: state.RoleSwap, From: "the release",
		Pin: func() ([]byte, error) { return v.Repo.Pin, nil }, Terms: trust.Terms{Product: "agent", Platform: "linux-amd64"}}
	return v
}

func (v *verifying) verify() (*manifest.Manifest, error) {
	b := v.Bundle(1)
	raw, err := b.Encode()
	testkit.Must(v.t, err)
	return v.Verify(raw, b.Manifest)
}

// collect collects as the fetcher does.
func (v *verifying) collect() (*trust.Release, []byte, error) {
	fetcher := v.Verifier
	fetcher.Role = state.RoleFetch
	return fetcher.Collect(func(file string, _ int64) ([]byte, error) {
		if b, ok := v.Files[file]; ok {
			return b, nil
		}
		return nil, fs.ErrNotExist
	})
}

// known returns what a role has stored.
func (v *verifying) known(r state.Role) (s trust.State) {
	testkit.Must(v.t, v.Tree.Trust(r, "agent", &s))
	return s
}

// TestVerify checks what a role stores of a signed release, and how it refuses one.
func TestVerify(t *testing.T) {
	const older = "cannot trust the release: timestamp v1: it is older than timestamp v2, which was here before"
	for _, c := range []struct {
		name   string
		play   func(v *verifying)
		result state.Result // "" for a release that is accepted
		text   string       // the beginning of the error
		signed bool         // the manifest is returned all the same
	}{
		{name: "a release", play: func(*verifying) {}},
		{name: "metadata that is not JSON", play: func(v *verifying) { v.Files[trust.TimestampFile] = nil }, result: state.ResultRefused, text: "cannot trust the release: timestamp: it is missing"},
		{name: "below the floor", play: func(v *verifying) { testkit.Must(v.t, v.Tree.RaiseFloor("agent", 2)) },
			result: state.ResultRefused, text: "cannot use the release: its sequence 1 is older than 2, which was committed here", signed: true},
		{name: "expired", play: func(v *verifying) {
			v.Expire(-day)
			v.Refresh()
		}, result: state.ResultRefused, text: "cannot trust the release: timestamp v2: expired on "},
		{name: "an older timestamp", play: func(v *verifying) {
			old := v.Kept()
			v.Refresh()
			_, err := v.verify()
			testkit.Must(v.t, err)
			v.Files = old
		}, result: state.ResultRefused, text: older},
		{name: "no root", play: func(v *verifying) {
			v.Verifier.Pin = func() ([]byte, error) { return nil, errors.New("there is no root") }
		},
			result: state.ResultRefused, text: "there is no root"},
		{name: "the floor cannot be read", play: func(v *verifying) {
			testkit.Put(v.t, filepath.Join(v.Tree.Dir(state.RoleSwap, "agent"), "floor.json"), "x")
		}, result: state.ResultFailed, text: "cannot read ", signed: true},
		{name: "nothing can be stored", play: func(v *verifying) { testkit.Must(v.t, os.RemoveAll(v.Tree.Dir(state.RoleSwap, "agent"))) }, result: state.ResultFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newVerifying(t)
			v.t = t
			c.play(v)
			m, err := v.verify()
			if (err == nil) != (c.result == "") || err != nil && (state.ResultOf(err) != c.result || !strings.HasPrefix(err.Error(), c.text)) {
				t.Errorf("got %v, want %s", err, c.text)
			}
			if (m != nil) != (err == nil || c.signed) {
				t.Errorf("got the manifest %+v", m)
			}
			if err != nil && strings.Contains(err.Error(), "(hint: its publisher must sign it again") != strings.Contains(c.text, "expired") {
				t.Errorf("the hint is wrong: %v", err)
			}
			if err == nil && len(v.known(state.RoleSwap).Timestamp) == 0 {
				t.Error("nothing is stored")
			}
		})
	}
	v := newVerifying(t)
	if _, err := v.Verify([]byte("x"), nil); state.ResultOf(err) != state.ResultRefused || !strings.HasPrefix(err.Error(), "cannot trust the release: the metadata is damaged") {
		t.Errorf("got %v", err)
	}
	v.ReadOnly = true
	if m, err := v.verify(); err != nil || m.Version != "v1" || v.known(state.RoleSwap).Timestamp != nil {
		t.Errorf("%v, and stored %+v", err, v.known(state.RoleSwap))
	}
}

// TestCollectFrom checks that the fetcher stores its own State, and knows the roots that
// the swapper has, so that a mirror cannot hide that a key was revoked.
func TestCollectFrom(t *testing.T) {
	const revoked = "cannot trust the release: timestamp v1: too few valid signatures"
	for _, c := range []struct {
		name string
		play func(v *verifying)
		text string // the beginning of the error; "" for none
	}{
		{"a release", func(*verifying) {}, ""},
		{"a key is revoked, and the swapper knows it", func(v *verifying) {
			old := v.Kept()
			v.Rotate()
			_, err := v.verify()
			testkit.Must(v.t, err)
			testkit.Must(v.t, v.Tree.SetTrust(state.RoleFetch, "agent", trust.State{Pin: "another"}))
			v.Files = old
		}, revoked},
		{"a key is revoked, and only the fetcher knows it", func(v *verifying) {
			old := v.Kept()
			_, err := v.verify()
			testkit.Must(v.t, err)
			v.Rotate()
			_, _, err = v.collect()
			testkit.Must(v.t, err)
			v.Files = old
		}, revoked},
		{"an older timestamp, and the swapper has roots of another pin", func(v *verifying) {
			old := v.Kept()
			v.Refresh()
			_, _, err := v.collect()
			testkit.Must(v.t, err)
			testkit.Must(v.t, v.Tree.SetTrust(state.RoleSwap, "agent", trust.State{Pin: "another", Metadata: trust.Metadata{Roots: [][]byte{[]byte("x")}}}))
			v.Files = old
		}, "cannot trust the release: timestamp v1: it is older than timestamp v2"},
		{"the manifest is missing", func(v *verifying) { delete(v.Files, manifest.Digest(v.Files[manifest.FileName])+"."+manifest.FileName) }, "file does not exist"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newVerifying(t)
			v.t = t
			c.play(v)
			r, metadata, err := v.collect()
			if c.text != "" {
				if err == nil || !strings.HasPrefix(err.Error(), c.text) || r != nil || metadata != nil {
					t.Errorf("got %v, want %s", err, c.text)
				}
				return
			}
			testkit.Must(t, err)
			if own := v.known(state.RoleFetch); string(own.Manifest) != string(r.Raw) || v.known(state.RoleSwap).Timestamp != nil {
				t.Errorf("the fetcher stored %+v", own)
			}
			if m, err := v.Verify(metadata, r.Raw); err != nil || m.Version != "v1" {
				t.Errorf("the next role: %v", err)
			}
		})
	}
}

package trust_test

import (
	"bytes"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/trust"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

// TestCollect checks which files are requested after a first walk. A refused document
// leads to no further request.
func TestCollect(t *testing.T) {
	manifestOf := func(r *machine) string {
		return manifest.Digest(r.Files[manifest.FileName]) + "." + manifest.FileName
	}
	for _, c := range []struct {
		name  string
		play  func(r *machine, known *trust.State)
		asked string // M stands for the manifest
		err   string
	}{
		{"nothing new", func(*machine, *trust.State) {}, "2.root.json timestamp.json", ""},
		{"a new release", func(r *machine, _ *trust.State) { r.Release(2) }, "2.root.json timestamp.json 2.snapshot.json 2.targets.json M", ""},
		{"a new root", func(r *machine, _ *trust.State) { r.SignRoot() }, "2.root.json 3.root.json timestamp.json", ""},
		{"another pin", func(r *machine, known *trust.State) { known.Pin = "x" }, "2.root.json timestamp.json 1.snapshot.json 1.targets.json M", ""},
		{"a damaged snapshot is known", func(_ *machine, known *trust.State) { known.Snapshot = known.Targets }, "2.root.json timestamp.json 1.snapshot.json", ""},
		{"another manifest is known", func(_ *machine, known *trust.State) { known.Manifest = []byte("{}") }, "2.root.json timestamp.json M", ""},
		{"a root without a signature", func(r *machine, _ *trust.State) { r.SignRoot(r.Key("stranger")) }, "2.root.json", "root v2: too few valid signatures"},
		{"a timestamp of a stranger", func(r *machine, _ *trust.State) {
			r.Release(2)
			r.Files[trust.TimestampFile] = trusttest.Sign(r.Repo, r.Timestamp, r.Key("stranger"))
		}, "2.root.json timestamp.json", "timestamp v2: too few valid signatures"},
		{"an expired timestamp", func(r *machine, _ *trust.State) {
			r.Expire(-day)
			r.Release(2)
		}, "2.root.json timestamp.json", "timestamp v2: expired on "},
		{"the known timestamp, expired", func(r *machine, _ *trust.State) { r.now = start.Add(8 * day) }, "2.root.json timestamp.json", "timestamp v1: expired on "},
		{"a snapshot of a stranger", func(r *machine, _ *trust.State) {
			r.Release(2)
			r.Files["2.snapshot.json"] = trusttest.Sign(r.Repo, r.Snapshot, r.Key("stranger"))
		}, "2.root.json timestamp.json 2.snapshot.json", "snapshot v2: too few valid signatures"},
		{"targets of a stranger", func(r *machine, _ *trust.State) {
			r.Release(2)
			r.Files["2.targets.json"] = trusttest.Sign(r.Repo, r.Targets, r.Key("stranger"))
		}, "2.root.json timestamp.json 2.snapshot.json 2.targets.json", "targets v2: too few valid signatures"},
		{"no manifest in the targets", func(r *machine, _ *trust.State) {
			r.Targets.Signed.Targets = nil
			r.Targets.Signed.Version++
			r.Refresh()
		}, "2.root.json timestamp.json 2.snapshot.json 2.targets.json", "targets v2: "},
		{"the snapshot is missing", func(r *machine, _ *trust.State) {
			r.Release(2)
			delete(r.Files, "2.snapshot.json")
		}, "2.root.json timestamp.json 2.snapshot.json", "file does not exist"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newMachine(t)
			var asked []string
			get := func(file string, most int64) ([]byte, error) {
				asked = append(asked, file)
				b, ok := r.Files[file]
				if !ok {
					return nil, fs.ErrNotExist
				}
				return b, nil
			}
			_, known, err := trust.Client{Pin: r.Pin, Clock: r.now}.Collect(get)
			r.must(err)
			c.play(r, &known)
			asked = nil
			got, after, err := trust.Client{Pin: r.Pin, State: known, Clock: r.now}.Collect(get)
			if want := strings.Split(strings.Replace(c.asked, "M", manifestOf(r), 1), " "); !slices.Equal(asked, want) {
				t.Errorf("asked for %v\nwant      %v", asked, want)
			}
			if c.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), c.err) {
					t.Errorf("got %v, want %s", err, c.err)
				}
				return
			}
			r.must(err)
			if want := r.Files[manifest.FileName]; string(got.Raw) != string(want) || string(after.Manifest) != string(want) {
				t.Errorf("got %s, remembers %s", got.Raw, after.Manifest)
			}
			// The next roles verify the metadata, but do not use the remembered manifest.
			b := trust.Metadata{Roots: after.Roots, Timestamp: after.Timestamp, Snapshot: after.Snapshot, Targets: after.Targets, Manifest: []byte("{}")}
			if _, _, err := (trust.Client{Pin: r.Pin, State: after, Clock: r.now}).Check(b); err == nil || !strings.HasSuffix(err.Error(), "client-manifest.json is not the one that it names") {
				t.Errorf("another manifest: %v", err)
			}
			b.Manifest = got.Raw
			if _, s, err := (trust.Client{Pin: r.Pin, Clock: r.now}).Check(b); err != nil || s.Manifest != nil {
				t.Errorf("%v, remembers %s", err, s.Manifest)
			}
		})
	}
}

// TestCollectBounded checks that roots too large to be handed on end the walk.
func TestCollectBounded(t *testing.T) {
	testkit.Slow(t)
	r := newMachine(t)
	spaces := bytes.Repeat([]byte(" "), trust.MaxRoot-5000)
	for range 33 {
		r.SignRoot()
	}
	_, s, err := trust.Client{Pin: r.Pin, Clock: r.now}.Collect(func(file string, _ int64) ([]byte, error) {
		if b, ok := r.Files[file]; ok {
			return slices.Concat(b, spaces), nil
		}
		return nil, fs.ErrNotExist
	})
	if err == nil || !strings.HasSuffix(err.Error(), "the metadata has more than 16777216 bytes (hint: pin a newer root)") || len(s.Roots) != 32 {
		t.Errorf("%v, %d roots", err, len(s.Roots))
	}
}

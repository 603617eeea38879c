package trust_test

import (
	"bytes"
	"encoding/hex"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

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
		{"a damaged pin", func(r *machine, _ *trust.State) { r.Pin = []byte("{}") }, "", "root: signed must be an object"},
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
			clear(r.Targets.Signed.Targets)
			r.Targets.Signed.Version++
			r.Refresh()
		}, "2.root.json timestamp.json 2.snapshot.json 2.targets.json", "targets v2: it names no client-manifest.json with a sha256"},
		{"the manifest is missing", func(r *machine, _ *trust.State) {
			r.Release(2)
			delete(r.Files, manifestOf(r))
		}, "2.root.json timestamp.json 2.snapshot.json 2.targets.json M", "file does not exist"},
		{"another manifest", func(r *machine, _ *trust.State) {
			r.Release(2)
			r.Files[manifestOf(r)] = []byte("{}")
		}, "2.root.json timestamp.json 2.snapshot.json 2.targets.json M", "targets v2: client-manifest.json is not the one that it names"},
		{"a manifest that is too large", func(r *machine, _ *trust.State) {
			r.PublishRaw(slices.Concat(r.Files[manifest.FileName], bytes.Repeat([]byte(" "), manifest.MaxSize)))
		}, "2.root.json timestamp.json 2.snapshot.json 2.targets.json M", "targets v2: client-manifest.json has more than "},
		{"the largest manifest", func(r *machine, _ *trust.State) {
			raw := r.Files[manifest.FileName]
			r.PublishRaw(slices.Concat(raw, bytes.Repeat([]byte(" "), manifest.MaxSize-len(raw))))
		}, "2.root.json timestamp.json 2.snapshot.json 2.targets.json M", ""},
		{"a snapshot that names one role less", func(r *machine, known *trust.State) {
			r.Snapshot.Signed.Meta["more.json"] = metadata.MetaFile(1)
			r.Refresh()
			known.Snapshot, known.Timestamp = r.Files["2.snapshot.json"], r.Files[trust.TimestampFile]
			delete(r.Snapshot.Signed.Meta, "more.json")
			r.Refresh()
		}, "2.root.json timestamp.json 3.snapshot.json", "snapshot v3: new snapshot is missing info for more.json"},
		{"older targets, in a snapshot that the timestamp names by its digest", func(r *machine, known *trust.State) {
			r.Release(2)
			known.Timestamp, known.Snapshot, known.Targets = r.Files[trust.TimestampFile], r.Files["2.snapshot.json"], r.Files["2.targets.json"]
			r.Targets.Signed.Version = 1
			r.Refresh()
			named := metadata.MetaFile(3)
			digest, err := hex.DecodeString(manifest.Digest(r.Files["3.snapshot.json"]))
			r.must(err)
			named.Hashes = metadata.Hashes{"sha256": digest}
			r.Timestamp.Signed.Meta["snapshot.json"] = named
			r.Files[trust.TimestampFile] = trusttest.Sign(r.Repo, r.Timestamp, r.Keys[trust.RoleTimestamp]...)
		}, "2.root.json timestamp.json 3.snapshot.json", "snapshot v3: it names targets v1, older than v2, which was here before"},
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
			if want := strings.Fields(strings.Replace(c.asked, "M", manifestOf(r), 1)); !slices.Equal(asked, want) {
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

// TestRefresh checks that what was verified is kept if the rest is refused.
func TestRefresh(t *testing.T) {
	r := newMachine(t)
	r.SignRoot()
	get := func(file string, _ int64) ([]byte, error) {
		if b, ok := r.Files[file]; ok {
			return b, nil
		}
		return nil, fs.ErrNotExist
	}
	if s, err := (trust.Client{Pin: r.Pin, Clock: r.now}).Refresh(get); err != nil || len(s.Roots) != 1 || s.Targets == nil || s.Manifest != nil {
		t.Errorf("%v, %+v", err, s)
	}
	r.now = start.Add(8 * day)
	s, err := trust.Client{Pin: r.Pin, Clock: r.now}.Refresh(get)
	if !trust.Expired(err) || len(s.Roots) != 1 {
		t.Errorf("%v, %d roots", err, len(s.Roots))
	}
	delete(r.Files, trust.TimestampFile)
	if _, err := (trust.Client{Pin: r.Pin, Clock: r.now}).Refresh(get); err == nil || trust.Expired(err) {
		t.Errorf("without a timestamp: %v", err)
	}
}

// TestRoots checks which chains of roots a publisher's machine adopts.
func TestRoots(t *testing.T) {
	for _, c := range []struct {
		name string
		play func(r *machine)
		want string // the beginning of the error; "" for none
	}{
		{"three", func(r *machine) {}, ""},
		{"none", func(r *machine) { delete(r.Files, "1.root.json") }, "file does not exist"},
		{"the first is the second", func(r *machine) { r.Files["1.root.json"] = r.Files["2.root.json"] }, "root v2: 1.root.json must have version 1"},
		{"the first has no signature", func(r *machine) { r.Files["1.root.json"] = trusttest.Sign(r.Repo, r.Root) }, "root v3: too few valid signatures"},
		{"the last is of a stranger", func(r *machine) { r.SignRoot(r.Key("stranger")) }, "root v4: too few valid signatures"},
	} {
		r := newMachine(t)
		r.SignRoot()
		r.SignRoot()
		c.play(r)
		all, err := trust.Roots(func(file string, most int64) ([]byte, error) {
			if b, ok := r.Files[file]; ok && most == trust.MaxRoot {
				return b, nil
			}
			return nil, fs.ErrNotExist
		})
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
		if err == nil && (len(all) != 3 || !bytes.Equal(all[0], r.Pin) || !bytes.Equal(all[2], r.Files["3.root.json"])) {
			t.Errorf("%s: got %d roots", c.name, len(all))
		}
	}
}

// TestUnverified checks that a missing or malformed file ends the list with an error.
func TestUnverified(t *testing.T) {
	for i, file := range []string{trust.TimestampFile, "1.snapshot.json", "1.targets.json", "M", ""} {
		r := newMachine(t)
		if file == "M" {
			file = manifest.Digest(r.Files[manifest.FileName]) + "." + manifest.FileName
		}
		for _, malformed := range []bool{false, true} {
			b, err := trust.Unverified(func(name string, _ int64) ([]byte, error) {
				switch {
				case name != file:
					return r.Files[name], nil
				case malformed:
					return []byte("{}"), nil
				}
				return nil, fs.ErrNotExist
			})
			read := 0
			for _, doc := range [][]byte{b.Timestamp, b.Snapshot, b.Targets, b.Manifest} {
				if doc != nil {
					read++
				}
			}
			want := i
			if malformed || i == 4 {
				want = min(i+1, 4)
			}
			if fails := i < 3 || i == 3 && !malformed; (err != nil) != fails || read != want {
				t.Errorf("%q, malformed %t: %d files, %v", file, malformed, read, err)
			}
		}
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

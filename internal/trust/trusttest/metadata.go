package trusttest

import (
	"fmt"
	"math"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/trust"
)

const tooFew = "too few valid signatures of the keys that a root names for it "

func onMetadata() []Attack {
	return []Attack{
		{"unknown signer", func(r *Repo) {
			r.Attack("timestamp v1: "+tooFew+"(got 0, want 1)", func() {
				r.Keys[trust.RoleTimestamp] = []signature.Signer{r.Key("of nobody")}
				r.Resign()
			})
		}},
		{"one key under two key IDs towards a threshold of 2", func(r *Repo) {
			r.SignRoot()
			r.Attack("root v3: "+tooFew+"(got 1, want 2)", func() {
				k := Public(r.Key("root 1"))
				alias := &metadata.Key{Type: k.Type, Scheme: k.Scheme, Value: k.Value, UnrecognizedFields: map[string]any{"x": "y"}}
				id, err := alias.ID()
				r.must(err)
				r.Root.Signed.Keys[id] = alias
				r.Root.Signed.Roles["root"].KeyIDs = append(r.Root.Signed.Roles["root"].KeyIDs, id)
				r.SignRoot(r.Key("root 1"))
				r.Root.Signatures = append(r.Root.Signatures, metadata.Signature{KeyID: id, Signature: r.Root.Signatures[0].Signature})
				r.Files["3.root.json"] = encode(r, r.Root)
			})
		}},
		{"one signature twice towards a threshold of 2", func(r *Repo) {
			id, err := Public(r.Key("root 1")).ID()
			r.must(err)
			r.Attack("root v2: value error: multiple signatures found for key ID "+id, func() { r.SignRoot(r.Key("root 1"), r.Key("root 1")) })
		}},
		{"timestamp v5 then v4", func(r *Repo) {
			for range 3 {
				r.Refresh()
			}
			old := r.Kept()
			r.Refresh()
			r.Check(1)
			r.Attack("timestamp v4: it is older than timestamp v5, which was here before", func() { r.Files = old })
		}},
		{"timestamp seen, snapshot withheld, then the timestamp before", func(r *Repo) {
			old := r.Kept()
			r.Release(2)
			all := r.Kept()
			delete(r.Files, "2.snapshot.json")
			r.Check("snapshot: it is missing")
			r.Attack("timestamp v1: it is older than timestamp v2, which was here before", func() { r.Files = old })
			r.Files = all
		}},
		{"same version, lower snapshot", func(r *Repo) {
			r.Release(2)
			r.Check(2)
			r.Snapshot.Signed.Version--
			r.Resign()
			r.Check(2) // the earlier timestamp is kept
			r.Snapshot.Signed.Version++
		}},
		{"higher version, lower snapshot", func(r *Repo) {
			r.Release(2)
			r.Check(2)
			r.Attack("timestamp v3: it names snapshot v1, older than v2, which was here before", func() {
				r.Snapshot.Signed.Version--
				r.Timestamp.Signed.Version++
				r.Resign()
			})
		}},
		{"snapshot drops targets (CVE-2022-29173)", func(r *Repo) {
			r.Check(1)
			r.Snapshot.Signed.Version++
			r.Timestamp.Signed.Version++
			r.Snapshot.Signed.Meta = map[string]*metadata.MetaFiles{"other.json": metadata.MetaFile(1)}
			r.Resign()
			r.Check("snapshot v2: it does not name targets.json")
		}},
		{"old targets under a new snapshot", func(r *Repo) {
			r.Release(2)
			r.Check(2)
			r.Targets.Signed.Version = 1
			r.Refresh()
			r.Check("snapshot v3: it names targets v1, older than v2, which was here before")
			r.Targets.Signed.Version = 2
		}},
		{"rejected file then persisted (poisoned cache)", func(r *Repo) {
			r.Check(1)
			r.Attack("timestamp v99: "+tooFew+"(got 0, want 1)", func() {
				r.Keys[trust.RoleTimestamp] = []signature.Signer{r.Key("of nobody")}
				r.Timestamp.Signed.Version = 99
				r.Resign()
			})
			r.Check(1)
		}},
		{"8-day-old timestamp (freeze)", func(r *Repo) {
			r.Attack("timestamp v1: expired on ", func() {
				r.Timestamp.Signed.Expires = r.now.Add(-day)
				r.Resign()
			})
		}},
		{"expired snapshot", func(r *Repo) {
			r.Attack("snapshot v1: expired on ", func() {
				r.Snapshot.Signed.Expires = r.now.Add(-day)
				r.Resign()
			})
		}},
		{"expired targets", func(r *Repo) {
			r.Attack("targets v1: expired on ", func() {
				r.Targets.Signed.Expires = r.now.Add(-day)
				r.Resign()
			})
		}},
		{"expired root", func(r *Repo) {
			good := r.Root.Signed.Expires
			r.Root.Signed.Expires = r.now.Add(-day)
			r.SignRoot()
			r.Check("root v2: expired on ")
			r.Root.Signed.Expires = good
			r.SignRoot() // another root may follow an expired one
			r.Check(1)
		}},
		{"version 2^63-1 from a stolen online key, then root rotates it", func(r *Repo) {
			r.Check(1)
			r.Timestamp.Signed.Version, r.Snapshot.Signed.Version = math.MaxInt64, math.MaxInt64
			r.Resign()
			r.Check(1)
			r.Timestamp.Signed.Version, r.Snapshot.Signed.Version = 7, 7
			r.Release(2)
			r.Check("timestamp v8: it is older than timestamp v9223372036854775807, which was here before")
			r.Rotate()
			r.Check(2)
		}},
		{"a revoked key after its rotation was seen", func(r *Repo) {
			r.Check(1)
			old := r.Kept()
			r.Rotate()
			r.Check(1)
			r.Attack("timestamp v1: "+tooFew+"(got 0, want 1)", func() { r.Files = old })
		}},
		{"rotation seen, the rest refused, then without it", func(r *Repo) {
			r.Check(1)
			old := r.Kept()
			r.ReplaceOnline()
			r.Check("timestamp v1: " + tooFew + "(got 0, want 1)")
			r.Attack("timestamp v1: "+tooFew+"(got 0, want 1)", func() { r.Files = old })
		}},
		{"old snapshot with new targets", func(r *Repo) {
			r.Check(1)
			r.Release(2)
			good := r.Files["2.snapshot.json"]
			r.Files["2.snapshot.json"] = r.Files["1.snapshot.json"]
			r.Check("snapshot v1: the timestamp names snapshot v2")
			r.Files["2.snapshot.json"] = good
		}},
		{"other targets than the snapshot names", func(r *Repo) {
			r.Release(2)
			good := r.Files["2.targets.json"]
			r.Files["2.targets.json"] = r.Files["1.targets.json"]
			r.Check("targets v1: the snapshot names targets v2")
			r.Files["2.targets.json"] = good
		}},
		{"another snapshot than the hash in the timestamp", func(r *Repo) {
			r.Timestamp.Signed.Version++
			r.Timestamp.Signed.Meta["snapshot.json"] = &metadata.MetaFiles{Version: 1, Hashes: metadata.Hashes{"sha256": make([]byte, 32)}}
			r.Files[trust.TimestampFile] = Sign(r, r.Timestamp, r.Keys[trust.RoleTimestamp]...)
			r.Check("snapshot v1: its digest or length is not the one that was signed for it")
		}},
		{"manifest A under B's name", func(r *Repo) {
			a := r.Files[manifest.FileName]
			r.Release(2)
			name := manifest.Digest(r.Files[manifest.FileName]) + "." + manifest.FileName
			b := r.Files[name]
			r.Files[name] = a
			r.Check("targets v2: client-manifest.json is not the one that it names")
			r.Files[name] = b
		}},
		{"10 GB timestamp.json", func(r *Repo) {
			r.Attack("timestamp: it has more than 16384 bytes", func() { // the client does not read further
				r.Files[trust.TimestampFile] = append(r.Files[trust.TimestampFile], make([]byte, trust.MaxTimestamp)...)
			})
		}},
		{"root N+1 signed by new keys only", func(r *Repo) {
			r.Attack("root v2: "+tooFew+"(got 0, want 2)", func() { r.SignRoot(newRootKeys(r)...) })
		}},
		{"root N+1 signed by old keys only", func(r *Repo) {
			r.Attack("root v2: "+tooFew+"(got 0, want 2)", func() {
				newRootKeys(r)
				r.SignRoot()
			})
		}},
		{"skipped root version", func(r *Repo) {
			r.Attack("root v3: it does not follow root v1", func() {
				r.Root.Signed.Version++
				r.SignRoot()
				r.Files["2.root.json"] = r.Files["3.root.json"]
			})
		}},
		{"300 roots", func(r *Repo) {
			r.Attack("root v258: more than 256 roots follow the pinned one (hint: pin a newer root)", func() {
				for range 300 {
					r.SignRoot()
				}
			})
			for range trust.MaxRotations { // these are honest
				r.SignRoot()
			}
		}},
		{"one role's bytes served as another: snapshot as timestamp", func(r *Repo) {
			r.Attack(`timestamp: it is of the role "snapshot"`, func() { r.Files[trust.TimestampFile] = r.Files["1.snapshot.json"] })
		}},
		{"one role's bytes served as another: targets as snapshot", func(r *Repo) {
			r.Attack(`snapshot: it is of the role "targets"`, func() { r.Files["1.snapshot.json"] = r.Files["1.targets.json"] })
		}},
		{"one role's bytes served as another: timestamp as root", func(r *Repo) {
			r.Attack(`root: it is of the role "timestamp"`, func() { r.Files["2.root.json"] = r.Files[trust.TimestampFile] })
		}},
		{"target name ../../etc/x", func(r *Repo) {
			r.Check(1)
			file := r.Targets.Signed.Targets[manifest.FileName]
			r.Targets.Signed.Targets = map[string]*metadata.TargetFiles{"../../etc/x": file}
			r.Targets.Signed.Version++
			r.Refresh()
			r.Check("targets v2: it names no client-manifest.json")
		}},
		{"version below min_version", func(r *Repo) {
			r.Check(1)
			r.Attack("it needs at least v9 first, and v1 is installed (hint: install v9 or a later version before it, by machinemon-update import or by hand)", func() {
				m := r.manifest
				m.MinVersion = "v9"
				r.Publish(&m)
			})
			r.skip()
		}},
		{"version below the floor", func(r *Repo) {
			r.Release(5)
			r.Check(5)
			r.Attack("its sequence 4 is older than 5, which was committed here", func() { r.Release(4) })
			r.skip()
		}},
		{"a mirror without signatures", func(r *Repo) {
			r.Attack("timestamp: it is missing", func() { r.Files = map[string][]byte{manifest.FileName: r.Files[manifest.FileName]} })
		}},
		{"a signed manifest of another product", func(r *Repo) {
			r.Attack(`it is of product "server", this target takes "agent"`, func() {
				m := r.manifest
				m.Product = "server"
				r.Publish(&m)
			})
			r.skip()
		}},
		{"a publisher withdraws a bad release under a higher sequence", func(r *Repo) {
			good := r.manifest
			r.Release(2)
			r.Check(2)
			good.Sequence = 3 // with the earlier version and bytes
			r.Publish(&good)
			r.Check(3)
		}},
		{"changed after it was signed", func(r *Repo) {
			r.Attack("timestamp v50: "+tooFew+"(got 0, want 1)", func() {
				r.replace(trust.TimestampFile, `,"version":1}}`, `,"version":50}}`)
			})
		}},
		{"a specification to come", func(r *Repo) {
			r.Attack(`timestamp v1: spec_version "2.0.0" is not one that this program understands (1.x)`, func() {
				r.Timestamp.Signed.SpecVersion = "2.0.0"
				r.Resign()
			})
		}},
	}
}

// skip moves the versions past those that a client saw in an attack.
func (r *Repo) skip() {
	r.Targets.Signed.Version++
	r.Refresh()
}

// newRootKeys replaces all keys that sign roots by two new ones, and returns these.
func newRootKeys(r *Repo) (keys []signature.Signer) {
	for i := range 3 {
		r.Revoke(trust.RoleRoot, r.Key(fmt.Sprint("root ", i+1)))
	}
	for i := range 2 {
		keys = append(keys, r.Key(fmt.Sprint("new root ", i+1)))
		r.must(r.Root.Signed.AddKey(Public(keys[i]), metadata.ROOT))
	}
	return keys
}

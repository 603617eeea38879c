package trust

import (
	"math"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// TestAttacks: every row is played against this package and, unless this package
// is stricter on purpose (ours), against go-tuf's own client, which must agree.
func TestAttacks(t *testing.T) {
	const tooFew = "too few valid signatures of the keys that a root names for it "
	mallory := []signature.Signer{key("mallory")}
	for _, row := range []struct {
		name string
		play func(r *repo)
	}{
		{"good releases", func(r *repo) {
			r.check(1)
			r.check(1)
			r.release(2)
			r.check(2)
		}},
		{"unknown signer", func(r *repo) {
			r.keys[Timestamp] = mallory
			r.resign()
			r.check("timestamp v2: " + tooFew + "(got 0, want 1)")
		}},
		{"one key under two key IDs towards a threshold of two", func(r *repo) {
			r.rotate(key("root 1"), key("root 2")) // v2, for what follows
			k := public(key("root 1"))
			alias := &metadata.Key{Type: k.Type, Scheme: k.Scheme, Value: k.Value, UnrecognizedFields: map[string]any{"x": "y"}}
			r.root.Signed.Version++
			id, err := alias.ID()
			r.must(err)
			r.root.Signed.Keys[id] = alias
			r.root.Signed.Roles["root"].KeyIDs = append(r.root.Signed.Roles["root"].KeyIDs, id)
			sign(r, r.root, key("root 1"))
			r.root.Signatures = append(r.root.Signatures, metadata.Signature{KeyID: id, Signature: r.root.Signatures[0].Signature})
			raw, err := r.root.ToBytes(false)
			r.must(err)
			r.files["3.root.json"] = raw
			r.check("root v3: " + tooFew + "(got 1, want 2)")
		}},
		{"one signature twice", func(r *repo) {
			r.root.Signed.Version++
			sign(r, r.root, key("root 1"), key("root 1"))
			raw, err := r.root.ToBytes(false)
			r.must(err)
			r.files["2.root.json"] = raw
			id, _ := public(key("root 1")).ID()
			r.check("root v2: value error: multiple signatures found for key ID " + id)
		}},
		{"timestamp v5 then v4", func(r *repo) {
			r.release(2)
			old := r.keep()
			r.release(3)
			r.check(3)
			r.files = old
			r.check("timestamp v3: it is older than timestamp v4, which was here before")
		}},
		{"timestamp seen, snapshot withheld, then the old timestamp", func(r *repo) {
			old := r.keep()
			r.release(2)
			delete(r.files, "3.snapshot.json")
			r.check("snapshot: it is missing")
			r.files = old
			r.check("timestamp v2: it is older than timestamp v3, which was here before")
		}},
		{"same timestamp version, lower snapshot", func(r *repo) {
			r.release(2)
			r.check(2)
			r.snapshot.Signed.Version--
			r.resign()
			r.check(2) // the known timestamp counts
		}},
		{"higher timestamp version, lower snapshot", func(r *repo) {
			r.release(2)
			r.check(2)
			r.snapshot.Signed.Version--
			r.timestamp.Signed.Version++
			r.resign()
			r.check("timestamp v4: it names snapshot v2, older than v3, which was here before")
		}},
		{"snapshot drops targets (CVE-2022-29173)", func(r *repo) {
			r.check(1)
			r.snapshot.Signed.Version++
			r.timestamp.Signed.Version++
			delete(r.snapshot.Signed.Meta, "targets.json")
			r.snapshot.Signed.Meta["other.json"] = metadata.MetaFile(1)
			r.resign()
			r.check("snapshot v3: it does not name targets.json")
		}},
		{"old targets under a new snapshot", func(r *repo) {
			r.release(2)
			r.check(2)
			r.targets.Signed.Version = 1
			r.publish()
			r.check("snapshot v4: it names targets v1, older than v2, which was here before")
		}},
		{"refused, then persisted (poisoned cache)", func(r *repo) {
			r.check(1)
			good := r.keep()
			r.keys[Timestamp] = mallory
			r.timestamp.Signed.Version = 99
			r.resign()
			r.check("timestamp v99: " + tooFew + "(got 0, want 1)")
			r.files = good
			r.check(1)
		}},
		{"8-day-old timestamp (freeze)", func(r *repo) {
			r.check(1)
			r.now = start.Add(8 * day)
			r.check("timestamp v2: expired on 2026-11-08T12:00:00Z (it is 2026-11-09T12:00:00Z here)")
		}},
		{"expired snapshot", func(r *repo) {
			r.now = start.Add(8 * day)
			r.timestamp.Signed.Expires = start.Add(9 * day)
			r.resign()
			r.check("snapshot v2: expired on 2026-11-08T12:00:00Z (it is 2026-11-09T12:00:00Z here)")
		}},
		{"expired targets", func(r *repo) {
			r.now = start.Add(46 * day)
			r.timestamp.Signed.Expires = start.Add(50 * day)
			r.snapshot.Signed.Expires = start.Add(50 * day)
			r.resign()
			r.check("targets v1: expired on 2026-12-16T12:00:00Z (it is 2026-12-17T12:00:00Z here)")
		}},
		{"expired root", func(r *repo) {
			r.now = start.Add(366 * day)
			r.check("root v1: expired on 2027-11-01T12:00:00Z (it is 2027-11-02T12:00:00Z here)")
			r.root.Signed.Expires = start.Add(700 * day) // an expired root may be followed
			r.rotate(r.keys[Root]...)
			r.timestamp.Signed.Expires, r.snapshot.Signed.Expires, r.targets.Signed.Expires = start.Add(400*day), start.Add(400*day), start.Add(400*day)
			r.release(2)
			r.check(2)
		}},
		{"version 2^63-1 from a stolen online key, then root rotates it", func(r *repo) {
			r.check(1)
			r.timestamp.Signed.Version, r.snapshot.Signed.Version = math.MaxInt64, math.MaxInt64
			r.resign()
			r.check(1)
			r.timestamp.Signed.Version, r.snapshot.Signed.Version = 7, 7
			r.release(2)
			r.check("timestamp v8: it is older than timestamp v9223372036854775807, which was here before")
			r.replaceOnline()
			r.release(3)
			r.check(3)
		}},
		{"a revoked key after its rotation was seen", func(r *repo) {
			r.check(1)
			old := r.keep()
			r.replaceOnline()
			r.release(2)
			r.check(2)
			r.files = old // without the new root, which go-tuf's own client forgets
			r.ours("timestamp v2: " + tooFew + "(got 0, want 1)")
		}},
		{"rotation seen, the rest refused, then without it", func(r *repo) {
			r.check(1)
			old := r.keep()
			r.replaceOnline()
			r.check("timestamp v2: " + tooFew + "(got 0, want 1)")
			r.files = old // as above
			r.ours("timestamp v2: " + tooFew + "(got 0, want 1)")
		}},
		{"old snapshot with new targets", func(r *repo) {
			r.check(1)
			r.release(2)
			r.files["3.snapshot.json"] = r.files["2.snapshot.json"]
			r.check("snapshot v2: the timestamp names snapshot v3")
		}},
		{"other targets than the snapshot names", func(r *repo) {
			r.release(2)
			r.files["2.targets.json"] = r.files["1.targets.json"]
			r.check("targets v1: the snapshot names targets v2")
		}},
		{"another snapshot than the hash in the timestamp", func(r *repo) {
			r.timestamp.Signed.Version++
			r.timestamp.Signed.Meta["snapshot.json"] = &metadata.MetaFiles{Version: 2, Hashes: metadata.Hashes{"sha256": make([]byte, 32)}}
			r.files[TimestampFile] = sign(r, r.timestamp, r.keys[Timestamp]...)
			r.check("snapshot v2: its digest or length is not the one that was signed for it")
		}},
		{"another manifest under the name", func(r *repo) {
			r.files[manifest.Digest(text(1))+"."+manifest.FileName] = text(9)
			r.check("targets v1: client-manifest.json is not the one that it names")
		}},
		{"targets without a manifest, and a name that leaves the directory", func(r *repo) {
			file := r.targets.Signed.Targets[manifest.FileName]
			r.targets.Signed.Targets = map[string]*metadata.TargetFiles{"../../etc/x": file}
			r.resign()
			r.check("targets v1: it names no client-manifest.json")
		}},
		{"a timestamp of 10 GB", func(r *repo) {
			r.files[TimestampFile] = append(r.files[TimestampFile], make([]byte, MaxTimestamp)...) // the rest is never read
			r.check("timestamp: it has more than 16384 bytes")
		}},
		{"root N+1 signed by new keys only", func(r *repo) {
			for _, k := range []string{"root 1", "root 2", "root 3"} {
				id, err := public(key(k)).ID()
				r.must(err)
				r.must(r.root.Signed.RevokeKey(id, "root"))
			}
			r.must(r.root.Signed.AddKey(public(key("m1")), "root"))
			r.must(r.root.Signed.AddKey(public(key("m2")), "root"))
			r.rotate(key("m1"), key("m2"))
			r.check("root v2: " + tooFew + "(got 0, want 2)")
		}},
		{"root N+1 signed by old keys only", func(r *repo) {
			r.root.Signed.Roles["root"].KeyIDs = nil
			r.must(r.root.Signed.AddKey(public(key("m1")), "root"))
			r.must(r.root.Signed.AddKey(public(key("m2")), "root"))
			r.rotate(key("root 1"), key("root 2"))
			r.check("root v2: " + tooFew + "(got 0, want 2)")
		}},
		{"skipped root version", func(r *repo) {
			r.root.Signed.Version++
			r.rotate(r.keys[Root]...)
			r.files["2.root.json"] = r.files["3.root.json"]
			r.check("root v3: it does not follow root v1")
		}},
		{"300 roots", func(r *repo) {
			for range 300 {
				r.rotate(r.keys[Root]...)
			}
			r.ours("root v258: more than 256 roots follow the pinned one (hint: pin a newer root)")
		}},
		{"256 roots", func(r *repo) {
			for range 256 {
				r.rotate(r.keys[Root]...)
			}
			r.check(1)
			if len(r.state.Roots) != 256 {
				r.t.Error(len(r.state.Roots))
			}
		}},
		{"the snapshot served as the timestamp", func(r *repo) {
			r.files[TimestampFile] = r.files["2.snapshot.json"]
			r.check(`timestamp: it is of the role "snapshot"`)
		}},
		{"the targets served as the snapshot", func(r *repo) {
			r.files["2.snapshot.json"] = r.files["1.targets.json"]
			r.check(`snapshot: it is of the role "targets"`)
		}},
		{"the timestamp served as a root", func(r *repo) {
			r.files["2.root.json"] = r.files[TimestampFile]
			r.check(`root: it is of the role "timestamp"`)
		}},
		{"a mirror without signatures", func(r *repo) {
			r.files = map[string][]byte{manifest.FileName: text(1)}
			r.check("timestamp: it is missing")
		}},
		{"changed after it was signed", func(r *repo) {
			r.edit(TimestampFile, func(o map[string]any) { o["version"] = 50 })
			r.check("timestamp v50: " + tooFew + "(got 0, want 1)")
		}},
		{"threshold lowered by hand", func(r *repo) {
			r.edit("1.root.json", func(o map[string]any) { o["roles"].(map[string]any)["root"].(map[string]any)["threshold"] = 1 })
			r.pin = r.files["1.root.json"]
			r.check("root v1: " + tooFew + "(got 0, want 1)")
		}},
		{"a specification to come", func(r *repo) {
			r.timestamp.Signed.SpecVersion = "2.0.0"
			r.resign()
			r.ours(`timestamp v2: spec_version "2.0.0" is not one that this program understands (1.x)`)
		}},
		{"a manifest that is none", func(r *repo) {
			raw := []byte("<html>")
			file, err := metadata.TargetFile().FromBytes(manifest.FileName, raw)
			r.must(err)
			r.targets.Signed.Targets[manifest.FileName] = file
			r.files[manifest.Digest(raw)+"."+manifest.FileName] = raw
			r.resign()
			r.ours("targets v1: client-manifest.json: it is not JSON: at byte 0: invalid character '<' looking for beginning of value")
		}},
	} {
		t.Run(row.name, func(t *testing.T) { row.play(newRepo(t)) })
	}
}

// TestForms: documents that two readers could see differently, or that would take
// go-tuf to where there is nothing. Each is put in the place of a signed one.
func TestForms(t *testing.T) {
	good := newRepo(t)
	replace := func(old, new string) func(b string) string {
		return func(b string) string {
			if !strings.Contains(b, old) {
				t.Fatalf("no %s in %s", old, b)
			}
			return strings.Replace(b, old, new, 1)
		}
	}
	for _, row := range []struct {
		name, file string
		change     func(string) string
		err        string
	}{
		{"duplicate key", TimestampFile, replace(`,"version":2}}`, `,"version":2,"version":9}}`), "timestamp: signed.version is there twice"},
		{"another case", TimestampFile, replace(`,"version":2}}`, `,"VERSION":2}}`), `timestamp: version must be written exactly so, not "VERSION"`},
		{"folds to a known key", TimestampFile, replace(`,"version":2}}`, `,"version":2,"verſion":9}}`), `timestamp: version must be written exactly so, not "ver\u017fion"`},
		{"invalid UTF-8", TimestampFile, replace(`"sig"`, "\"\xff\":1,\"sig\""), "timestamp: it is not valid UTF-8"},
		{"lone surrogate", TimestampFile, replace(`"sig"`, `"\ud800":1,"sig"`), `timestamp: it has half of a surrogate pair, \ud800, in a string`},
		{"trailing bytes", TimestampFile, func(b string) string { return b + "x" }, "timestamp: there is something after the JSON object"},
		{"NUL", TimestampFile, replace(`"1.0`, `"1.0\u0000`), `timestamp: it has \u0000 in a string`},
		{"negative version", TimestampFile, replace(`,"version":2}}`, `,"version":-2}}`), "timestamp: signed.version must be a plain whole number from 1 on"},
		{"exponent", TimestampFile, replace(`"version":2}`, `"version":2e0}`), "timestamp v2: signed.meta.snapshot.json.version must be a plain whole number from 1 on"},
		{"2^63", TimestampFile, replace(`"version":2}`, `"version":9223372036854775808}`), "timestamp v2: signed.meta.snapshot.json.version must be a plain whole number from 1 on"},
		{"10,001 nested", TimestampFile, func(string) string { return strings.Repeat("[", 10_001) }, "timestamp: it nests deeper than 32 levels"},
		{"a string for signed", TimestampFile, func(string) string { return `{"signed":"x","signatures":[]}` }, "timestamp: signed must be an object"},
		{"null for signed", TimestampFile, func(string) string { return `{"signed":null,"signatures":[]}` }, "timestamp: signed must be an object"},
		{"no signatures", TimestampFile, func(string) string { return `{"signed":{}}` }, "timestamp: signatures must be an array"},
		{"null for a signature", TimestampFile, replace(`"signatures":[`, `"signatures":[null,`), "timestamp: signatures[0] must be an object"},
		{"null for the snapshot", TimestampFile, replace(`"snapshot.json":{"version":2}`, `"snapshot.json":null`), "timestamp v2: signed.meta.snapshot.json must be an object"},
		{"no snapshot", TimestampFile, replace(`"snapshot.json"`, `"snapshots.json"`), "timestamp v2: it does not name snapshot.json"},
		{"null for meta", TimestampFile, replace(`"meta":{"snapshot.json":{"version":2}}`, `"meta":null`), "timestamp v2: signed.meta must be an object"},
		{"empty file", TimestampFile, func(string) string { return "" }, "timestamp: it is missing"},
		{"HTML error page", TimestampFile, func(string) string { return "<html>" }, "timestamp: it is not JSON: at byte 0: invalid character '<' looking for beginning of value"},
		{"null for targets", "2.snapshot.json", replace(`"targets.json":{"version":1}`, `"targets.json":null`), "snapshot v2: signed.meta.targets.json must be an object"},
		{"null for a target", "1.targets.json", replace(`"targets":{`, `"targets":{"x":null,`), "targets v1: signed.targets.x must be an object"},
		{"no hashes", "1.targets.json", replace(`"hashes"`, `"hash"`), "targets v1: signed.targets.client-manifest.json.hashes must be an object"},
		{"null for a key", "2.root.json", replace(`"keys":{`, `"keys":{"x":null,`), "root v1: signed.keys.x must be an object"},
		{"a short key", "2.root.json", replace(hexOf(key("online")), "00"), "is not an ed25519 key"},
		{"null for a role", "2.root.json", replace(`"roles":{`, `"roles":{"x":null,`), "root v1: signed.roles.x must be an object"},
		{"no timestamp role", "2.root.json", replace(`"timestamp":{"keyids"`, `"time":{"keyids"`), "root v1: signed.roles.timestamp must be an object"},
		{"threshold zero", "2.root.json", replace(`"threshold":1`, `"threshold":0`), "threshold must be a plain whole number from 1 on"},
		{"unknown time", TimestampFile, replace(`2026-11-08T12:00:00Z`, `tomorrow`), "timestamp v2: signed.expires must be a time such as 2026-11-01T12:00:00Z"},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := good.get()
			var err error
			switch row.file {
			case TimestampFile:
				b.Timestamp = []byte(row.change(string(b.Timestamp)))
			case "2.snapshot.json":
				b.Snapshot = []byte(row.change(string(b.Snapshot)))
			case "1.targets.json":
				b.Targets = []byte(row.change(string(b.Targets)))
			case "2.root.json":
				b.Roots = [][]byte{[]byte(row.change(string(good.pin)))}
			}
			_, _, err = Client{Pin: good.pin, Clock: start}.Check(b)
			if err == nil || !strings.HasSuffix(err.Error(), row.err) {
				t.Errorf("got  %v\nwant %s", err, row.err)
			}
		})
	}
}

// FuzzCheck: whatever stands in the place of signed metadata, nothing but the
// signed manifest is believed and nothing panics.
func FuzzCheck(f *testing.F) {
	good := newRepo(f)
	b := good.get()
	for i, doc := range [][]byte{b.Timestamp, b.Snapshot, b.Targets, good.pin} {
		f.Add(byte(i), doc)
	}
	f.Fuzz(func(t *testing.T, which byte, doc []byte) {
		b := good.get()
		switch which % 4 {
		case 0:
			b.Timestamp = doc
		case 1:
			b.Snapshot = doc
		case 2:
			b.Targets = doc
		case 3:
			b.Roots = [][]byte{doc}
		}
		r, _, err := Client{Pin: good.pin, Clock: start}.Check(b)
		if err != nil && strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("the error is not one line: %q", err)
		}
		if err == nil && string(r.Raw) != string(text(1)) {
			t.Errorf("believed %s", r.Raw)
		}
	})
}

package trust_test

import (
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/trust"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

// TestForms replaces a signed document by one in which go-tuf would dereference nil.
func TestForms(t *testing.T) {
	good := newMachine(t)
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
		{"null for signed", trust.TimestampFile, func(string) string { return `{"signed":null,"signatures":[]}` }, "timestamp: signed must be an object"},
		{"no signatures", trust.TimestampFile, func(string) string { return `{"signed":{}}` }, "timestamp: signatures must be an array"},
		{"no key ID", trust.TimestampFile, replace(`"keyid"`, `"key"`), "timestamp: signatures[0].keyid must be a string"},
		{"a number for a type", trust.TimestampFile, replace(`"_type":"timestamp"`, `"_type":1`), "timestamp: signed._type must be a string"},
		{"a version beyond 64 bits", trust.TimestampFile, replace(`{"version":1}`, `{"version":99999999999999999999}`), "timestamp v1: signed.meta.snapshot.json.version must be a plain whole number from 1 on"},
		{"Signed beside signed", trust.TimestampFile, replace(`,"version":1}}`, `,"version":1},"Signed":{}}`), `timestamp: signed must be written exactly so, not "Signed"`},
		{"SIGNATURES beside signatures", trust.TimestampFile, replace(`{"signatures"`, `{"SIGNATURES":null,"signatures"`), `timestamp: signatures must be written exactly so, not "SIGNATURES"`},
		{"null for a signature", trust.TimestampFile, replace(`"signatures":[`, `"signatures":[null,`), "timestamp: signatures[0] must be an object"},
		{"no snapshot", trust.TimestampFile, replace(`"snapshot.json"`, `"snapshots.json"`), "timestamp v1: it does not name snapshot.json"},
		{"null for meta", trust.TimestampFile, replace(`"meta":{"snapshot.json":{"version":1}}`, `"meta":null`), "timestamp v1: signed.meta must be an object"},
		{"null for targets", "1.snapshot.json", replace(`"targets.json":{"version":1}`, `"targets.json":null`), "snapshot v1: signed.meta.targets.json must be an object"},
		{"null for a target", "1.targets.json", replace(`"targets":{`, `"targets":{"x":null,`), "targets v1: signed.targets.x must be an object"},
		{"no hashes", "1.targets.json", replace(`"hashes"`, `"hash"`), "targets v1: signed.targets.client-manifest.json.hashes must be an object"},
		{"null for a key", "2.root.json", replace(`"keys":{`, `"keys":{"x":null,`), "root v1: signed.keys.x must be an object"},
		{"a short key", "2.root.json", replace(trusttest.Public(good.Key("online")).Value.PublicKey, "00"), "is not an ed25519 key"},
		{"null for a role", "2.root.json", replace(`"roles":{`, `"roles":{"x":null,`), "root v1: signed.roles.x must be an object"},
		{"no timestamp role", "2.root.json", replace(`"timestamp":{"keyids"`, `"time":{"keyids"`), "root v1: signed.roles.timestamp must be an object"},
		{"null for the keys of a role", "2.root.json", replace(`"timestamp":{"keyids":[`, `"timestamp":{"keyids":null,"x":[`), "root v1: signed.roles.timestamp.keyids must be an array"},
		{"threshold zero", "2.root.json", replace(`"threshold":1`, `"threshold":0`), "threshold must be a plain whole number from 1 on"},
		{"unknown time", trust.TimestampFile, replace(`2026-11-08T12:00:00Z`, `tomorrow`), "timestamp v1: signed.expires must be a time such as 2026-11-01T12:00:00Z"},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := good.Bundle(1)
			var err error
			switch row.file {
			case trust.TimestampFile:
				b.Timestamp = []byte(row.change(string(b.Timestamp)))
			case "1.snapshot.json":
				b.Snapshot = []byte(row.change(string(b.Snapshot)))
			case "1.targets.json":
				b.Targets = []byte(row.change(string(b.Targets)))
			case "2.root.json":
				b.Roots = [][]byte{[]byte(row.change(string(good.Pin)))}
			}
			_, _, err = trust.Client{Pin: good.Pin, Clock: start}.Check(b)
			if err == nil || !strings.HasSuffix(err.Error(), row.err) {
				t.Errorf("got  %v\nwant %s", err, row.err)
			}
		})
	}
}

// TestFormOfSecond checks that a thief of the online key cannot hide a document from the
// check of its form: go-tuf would read the second of two, and dereference nil.
func TestFormOfSecond(t *testing.T) {
	r := newMachine(t)
	b := r.Bundle(1)
	good := strings.TrimSpace(string(b.Timestamp))
	r.Timestamp.Signed.Meta = map[string]*metadata.MetaFiles{"snapshot.json": nil}
	bad := string(trusttest.Sign(r.Repo, r.Timestamp, r.Keys[trust.RoleTimestamp]...))
	signed := good[strings.Index(good, `"signed":`):]
	b.Timestamp = []byte(strings.Replace(strings.Replace(bad, `"signed":`, `"Signed":`, 1), "{", "{"+strings.TrimSuffix(signed, "}")+",", 1))
	if _, _, err := (trust.Client{Pin: r.Pin, Clock: start}).Check(b); err == nil || !strings.HasSuffix(err.Error(), `signed must be written exactly so, not "Signed"`) {
		t.Errorf("got %v", err)
	}
}

// FuzzCheck checks that any bytes in place of signed metadata cause no panic, and that
// only the signed manifest is accepted.
func FuzzCheck(f *testing.F) {
	good := newMachine(f)
	b := good.Bundle(1)
	for i, doc := range [][]byte{b.Timestamp, b.Snapshot, b.Targets, good.Pin} {
		f.Add(byte(i), doc)
	}
	f.Fuzz(func(t *testing.T, which byte, doc []byte) {
		b := good.Bundle(1)
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
		r, _, err := trust.Client{Pin: good.Pin, Clock: start}.Check(b)
		if err != nil && strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("the error is not one line: %q", err)
		}
		if err == nil && string(r.Raw) != string(good.Files[manifest.FileName]) {
			t.Errorf("believed %s", r.Raw)
		}
	})
}

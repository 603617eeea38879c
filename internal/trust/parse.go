package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/pattern"
	"github.com/machinemon/machinemon-update/internal/state"
)

// Next returns the name and the largest size, in bytes, of the file that b, metadata of
// this role, leads to: from a root, the next root; from the others, what they name. Next
// checks only the form of b. The author of an unverified b chooses the name, among those
// that a repository has.
func Next(r Role, b []byte) (file string, most int64, err error) {
	d, err := read(r, b)
	if err != nil {
		return "", 0, err
	}
	switch r {
	case RoleRoot:
		return fmt.Sprintf("%d.root.json", d.Version+1), MaxRoot, nil
	case RoleTimestamp:
		return fmt.Sprintf("%d.snapshot.json", d.names), MaxSnapshot, nil
	case RoleSnapshot:
		return fmt.Sprintf("%d.targets.json", d.names), MaxTargets, nil
	}
	if d.manifest == "" {
		return "", 0, d.refuse("it names no %s with a sha256", manifest.FileName)
	}
	return d.manifest + "." + manifest.FileName, manifest.MaxSize, nil
}

// document is metadata of the right form, signed or not.
type document struct {
	Signed
	names    int64  // the version of the snapshot, or of the targets, that it names
	manifest string // the manifest's sha256 in targets; "" for none
}

func (d document) refuse(format string, args ...any) *Error {
	return &Error{Role: d.Role, Version: d.Version, Reason: fmt.Sprintf(format, args...)}
}

// read checks that b is one JSON document that all readers understand alike, with
// the fields that go-tuf uses unchecked: it dereferences keys, roles, meta and
// targets that are null.
func read(r Role, b []byte) (document, error) {
	d := document{Signed: Signed{Role: r}}
	if len(b) == 0 {
		return d, d.refuse("it is missing")
	}
	o, err := manifest.ReadObject(b, r.Max())
	if err != nil {
		return d, d.refuse("%v", err)
	}
	f := &form{}
	f.asObject("", o)
	signed := f.object("", o, "signed")
	for i, v := range f.array("", o, "signatures") {
		f.string(f.asObject(fmt.Sprintf("signatures[%d]", i), v), "keyid", "sig")
	}
	f.signed(&d, signed)
	if f.err != nil {
		return d, d.refuse("%v", f.err)
	}
	return d, nil
}

// form checks the fields of a document. err is the first fault found.
type form struct{ err error }

type object struct {
	at     string
	fields map[string]any
}

func (f *form) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, args...)
	}
}

// known are the names that go-tuf uses. encoding/json accepts them in upper and lower case.
var known = []string{"signed", "signatures", "keyid", "sig", "_type", "spec_version", "version", "expires", "consistent_snapshot",
	"keys", "roles", "keyids", "threshold", "keytype", "scheme", "keyval", "public", "meta", "targets", "delegations",
	"length", "hashes", "custom"}

func (f *form) asObject(at string, v any) object {
	fields, ok := v.(map[string]any)
	if !ok {
		f.fail("%s must be an object", short(at))
	}
	for key := range fields {
		if i := slices.IndexFunc(known, func(k string) bool { return k != key && strings.EqualFold(k, key) }); i >= 0 {
			f.fail("%s must be written exactly so, not %+.40q", known[i], key)
		}
	}
	return object{at, fields}
}

func (f *form) object(at string, o map[string]any, key string) object {
	return f.asObject(at+key, o[key])
}

func (f *form) array(at string, o map[string]any, key string) []any {
	a, ok := o[key].([]any)
	if !ok {
		f.fail("%s must be an array", short(at+key))
	}
	return a
}

func (f *form) string(o object, keys ...string) (s string) {
	for _, key := range keys {
		var ok bool
		if s, ok = o.fields[key].(string); !ok {
			f.fail("%s must be a string", short(o.at+"."+key))
		}
	}
	return s
}

// number returns a plain whole number from 1 on, as every version and threshold is. JSON
// has one way to write it that Int64 reads.
func (f *form) number(o object, key string) int64 {
	n, _ := o.fields[key].(json.Number)
	i, err := n.Int64()
	if err != nil || i < 1 {
		f.fail("%s must be a plain whole number from 1 on", short(o.at+"."+key))
		return 0
	}
	return i
}

// each calls check for every member of an object of objects.
func (f *form) each(o object, check func(key string, o object)) {
	for _, key := range slices.Sorted(maps.Keys(o.fields)) {
		check(key, f.asObject(o.at+"."+key, o.fields[key]))
	}
}

func short(at string) string { return fmt.Sprintf("%.80s", strings.Trim(strconv.Quote(at), `"`)) }

func (f *form) signed(d *document, o object) {
	if is := f.string(o, "_type"); is != string(d.Role) {
		f.fail("it is of the role %+.20q", is)
	}
	if f.err != nil {
		return
	}
	d.Version = f.number(o, "version")
	if spec := f.string(o, "spec_version"); !strings.HasPrefix(spec, "1.") {
		f.fail("spec_version %+.20q is not one that this program understands (1.x)", spec)
	}
	var err error
	if d.Expires, err = time.Parse(time.RFC3339, f.string(o, "expires")); err != nil {
		f.fail("signed.expires must be a time such as 2026-11-01T12:00:00Z")
	}
	switch d.Role {
	case RoleRoot:
		f.root(o)
	case RoleTimestamp:
		d.names = f.meta(o, "snapshot.json")
	case RoleSnapshot:
		d.names = f.meta(o, "targets.json")
	case RoleTargets:
		d.manifest = f.targets(o)
	}
}

func (f *form) root(o object) {
	f.each(f.object("signed.", o.fields, "keys"), func(_ string, key object) {
		kind := f.string(key, "scheme", "keytype")
		public := f.string(f.object(key.at+".", key.fields, "keyval"), "public")
		// crypto/ed25519 panics at a key of another length.
		if kind == "ed25519" && !validDigest.MatchString(public) {
			f.fail("%s is not an ed25519 key", short(key.at))
		}
	})
	roles := f.object("signed.", o.fields, "roles")
	f.each(roles, func(_ string, role object) {
		f.array(role.at+".", role.fields, "keyids")
		f.number(role, "threshold")
	})
	for _, r := range []Role{RoleRoot, RoleTimestamp, RoleSnapshot, RoleTargets} {
		f.object("signed.roles.", roles.fields, string(r))
	}
}

// meta returns the version that meta has for the file.
func (f *form) meta(o object, name string) (version int64) {
	f.each(f.object("signed.", o.fields, "meta"), func(key string, file object) {
		if n := f.number(file, "version"); key == name {
			version = n
		}
	})
	if version == 0 {
		f.fail("it does not name %s", name)
	}
	return version
}

var validDigest = pattern.New(`^[0-9a-f]{64}$`)

func (f *form) targets(o object) (sha256 string) {
	f.each(f.object("signed.", o.fields, "targets"), func(name string, file object) {
		hashes := f.object(file.at+".", file.fields, "hashes")
		if s, _ := hashes.fields["sha256"].(string); name == manifest.FileName && validDigest.MatchString(s) {
			sha256 = s
		}
	})
	return sha256
}

// reason returns go-tuf's or encoding/json's error as one short line.
func reason(err error) string {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return "it is not JSON"
	}
	return fmt.Sprintf("%.200s", state.Printable(err.Error()))
}

package manifest

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
)

var validName = late(`^[A-Za-z0-9][A-Za-z0-9.+_~-]{0,63}$`)

// ValidName reports whether s is a valid version, product or platform key:
// [A-Za-z0-9][A-Za-z0-9.+_~-]{0,63}.
func ValidName(s string) bool { return validName().MatchString(s) }

// Parse parses a manifest. It ignores unknown fields, so that an old program can read a
// newer publisher's manifest, and refuses all other deviations from
// machinemon-update.manifest(5), with an error that names the field.
func Parse(b []byte) (*Manifest, error) {
	o, err := ReadObject(b, MaxSize)
	if err != nil {
		return nil, err
	}
	r := &reader{}
	m := r.manifest(o)
	if r.err != nil {
		return nil, r.err
	}
	return m, nil
}

func (r *reader) manifest(o object) *Manifest {
	f := r.open("", o, "schema", "product", "version", "sequence", "released_at", "min_version",
		"disabled", "rollout", "platforms")
	m := &Manifest{Schema: Schema, Platforms: map[string]Platform{}}
	if f.has("schema") {
		// It comes first, because a newer schema may define the other fields differently.
		m.Schema = int(f.number("schema", 1, math.MaxInt32))
		if r.err == nil && m.Schema > Schema {
			r.err = fmt.Errorf("manifest schema %d is newer than this program understands (%d)", m.Schema, Schema)
			return m
		}
	}
	m.Product = f.optional("product", f.name)
	m.Version = f.name("version")
	if f.has("sequence") {
		m.Sequence = f.number("sequence", 0, math.MaxInt64)
	}
	m.ReleasedAt = f.optional("released_at", f.time)
	m.MinVersion = f.optional("min_version", f.name)
	m.Disabled = f.has("disabled") && f.bool("disabled")
	if f.has("rollout") {
		m.Rollout = &Rollout{Percent: int(f.object("rollout", "percent").number("percent", 0, 100))}
	}
	platforms := f.object("platforms")
	if len(platforms.o) == 0 {
		r.fail(platforms.at, "there must be at least one")
	}
	for _, key := range slices.Sorted(maps.Keys(platforms.o)) {
		if !ValidName(key) {
			r.fail(joinPath(platforms.at, key), "not a platform key such as linux-amd64")
		}
		m.Platforms[key] = platform(platforms.object(key, "file", "sha256", "sha512", "size", "unpacked_size", "contents", "deltas", "patches"))
	}
	return m
}

func platform(f fields) Platform {
	p := Platform{File: f.file("file"), SHA256: f.digest("sha256"), Size: f.number("size", 1, maxBytes)}
	if f.has("sha512") {
		p.SHA512 = f.sha512("sha512")
	}
	if f.has("unpacked_size") {
		p.UnpackedSize = f.number("unpacked_size", 1, maxBytes)
	}
	if f.has("contents") {
		contents := f.object("contents")
		p.Contents = map[string]Content{}
		for _, name := range slices.Sorted(maps.Keys(contents.o)) {
			f.checkEntry(joinPath(contents.at, name), name)
			c := contents.object(name, "sha256", "size")
			p.Contents[name] = Content{SHA256: c.digest("sha256"), Size: c.number("size", 0, maxBytes)}
		}
	}
	p.Deltas, p.Patches = deltas(f, "deltas"), deltas(f, "patches")
	return p
}

func deltas(f fields, key string) (all []Delta) {
	if !f.has(key) {
		return nil
	}
	at, list := f.array(key)
	for i, v := range list {
		d := f.open(at+"["+strconv.Itoa(i)+"]", v, "from_sha256", "entry", "file", "sha256", "size")
		all = append(all, Delta{
			FromSHA256: d.digest("from_sha256"), Entry: d.entry("entry"),
			File: d.file("file"), SHA256: d.digest("sha256"), Size: d.number("size", 1, maxBytes),
		})
	}
	return all
}

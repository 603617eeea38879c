package gate

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/machinemon/machinemon-update/internal/checkin"
)

// inflate returns the content of a gzip'ed answer, or nil if it is damaged. It stops
// at MaxResponse+1 bytes, which readObject refuses.
func inflate(b []byte) []byte {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(z, checkin.MaxResponse+1))
	if err != nil {
		return nil
	}
	return data
}

// member is a key of a JSON object, and its value as written.
type member struct {
	key   string
	value json.RawMessage
}

// readObject returns the members of a JSON object, in order, or nil if b is not an
// object of at most checkin.MaxResponse bytes.
func readObject(b []byte) []member {
	if len(b) > checkin.MaxResponse || !utf8.Valid(b) || !json.Valid(b) {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	members := []member{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil
		}
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return nil
		}
		members = append(members, member{key.(string), value})
	}
	return members
}

// edit returns an object of members and directive, without upstream's own directive
// (update_*), which could bypass the switch. changed reports whether it differs.
func edit(members, directive []member) (doc []byte, changed bool) {
	b := bytes.NewBufferString("{")
	put := func(m member) {
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		key, _ := json.Marshal(m.key) // cannot fail for a string
		b.Write(key)
		b.WriteByte(':')
		b.Write(m.value)
	}
	changed = len(directive) > 0
	for _, m := range members {
		if strings.HasPrefix(strings.ToLower(m.key), "update_") {
			changed = true
			continue
		}
		put(m)
	}
	for _, m := range directive {
		put(m)
	}
	b.WriteString("}\n")
	return b.Bytes(), changed
}

package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth is the greatest depth of nested objects and arrays; a manifest needs five.
const maxDepth = 32

// maxValues is the greatest number of values. Each takes up to 200 bytes of memory, however
// few it has in the document. The largest manifests, of ten thousand files, and the largest
// metadata of a repository have fewer.
const maxValues = 100_000

// object is a JSON object in which each key occurred once.
type object = map[string]any

// ReadObject parses b as exactly one JSON object of at most most bytes, with numbers as
// json.Number. It refuses duplicate keys, invalid text and data after the object, which
// encoding/json accepts: with them, two readers could see two releases in one document.
func ReadObject(b []byte, most int) (map[string]any, error) {
	switch {
	case len(b) > most:
		return nil, fmt.Errorf("it has more than %d bytes", most)
	case len(bytes.TrimSpace(b)) == 0:
		return nil, errors.New("it is empty")
	case !utf8.Valid(b):
		return nil, errors.New("it is not valid UTF-8")
	}
	if err := checkEscapes(b); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	left := maxValues
	v, err := readValue(d, "", 0, &left)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("there is something after the JSON object")
	}
	o, ok := v.(object)
	if !ok {
		return nil, fmt.Errorf("it must be a JSON object, not %s", jsonType(v))
	}
	return o, nil
}

// readValue reads the next value; at is its place, for errors, and left the number of
// values that may come.
func readValue(d *json.Decoder, at string, depth int, left *int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("it nests deeper than %d levels", maxDepth)
	}
	if *left--; *left < 0 {
		return nil, fmt.Errorf("it has more than %d values", maxValues)
	}
	t, err := d.Token()
	if err != nil {
		return nil, syntaxError(d, err)
	}
	switch t {
	case json.Delim('{'):
		o := object{}
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, syntaxError(d, err)
			}
			key := k.(string) // the decoder returns keys as strings only
			if _, twice := o[key]; twice {
				return nil, fmt.Errorf("%s is there twice", joinPath(at, key))
			}
			if o[key], err = readValue(d, joinPath(at, key), depth+1, left); err != nil {
				return nil, err
			}
		}
		if _, err := d.Token(); err != nil {
			return nil, syntaxError(d, err)
		}
		return o, nil
	case json.Delim('['):
		a := []any{}
		for d.More() {
			v, err := readValue(d, at+"["+strconv.Itoa(len(a))+"]", depth+1, left)
			if err != nil {
				return nil, err
			}
			a = append(a, v)
		}
		if _, err := d.Token(); err != nil {
			return nil, syntaxError(d, err)
		}
		return a, nil
	}
	return t, nil
}

func syntaxError(d *json.Decoder, err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errors.New("it is not complete JSON: it ends too early")
	}
	return fmt.Errorf("it is not JSON: at byte %d: %v", d.InputOffset(), err)
}

// checkEscapes refuses \u escapes of NUL and of single halves of surrogate pairs. JSON has
// backslashes only in strings. The decoder refuses malformed escapes.
func checkEscapes(b []byte) error {
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			continue
		}
		i++
		r, ok := parseEscape(b[i:])
		if !ok {
			continue
		}
		i += 4
		low, paired := rune(0), false
		if i+2 < len(b) && b[i+1] == '\\' {
			low, paired = parseEscape(b[i+2:])
		}
		switch {
		case r == 0:
			return errors.New(`it has \u0000 in a string`)
		case r >= 0xd800 && r < 0xdc00 && paired && low >= 0xdc00 && low < 0xe000:
			i += 6
		case r >= 0xd800 && r < 0xe000:
			return fmt.Errorf(`it has half of a surrogate pair, \u%04x, in a string`, r)
		}
	}
	return nil
}

// parseEscape parses "uXXXX" at the start of b.
func parseEscape(b []byte) (rune, bool) {
	if len(b) < 5 || b[0] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[1:5]), 16, 16)
	return rune(n), err == nil
}

// joinPath appends a key to a place in the document, as in "platforms.linux-amd64". It
// quotes keys with unusual characters, and shortens long ones.
func joinPath(at, key string) string {
	if q := strconv.Quote(key); len(q) != len(key)+2 || strings.ContainsAny(key, ". ") || key == "" || len(key) > 80 {
		key = fmt.Sprintf("%.80s", q)
	}
	if at == "" {
		return key
	}
	return at + "." + key
}

// jsonType returns the JSON type of a decoded value, for errors.
func jsonType(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case object:
		return "an object"
	case []any:
		return "an array"
	case string:
		return "a string"
	case bool:
		return "true or false"
	}
	return "a number"
}

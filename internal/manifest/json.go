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

// maxDepth is how deep objects and arrays may nest; the contract needs five.
const maxDepth = 32

// object is a JSON object whose keys were each seen once.
type object = map[string]any

// ReadObject reads b as exactly one JSON object of at most this many bytes, its
// numbers as json.Number. encoding/json alone would take the last of two equal
// keys, match keys without regard to case, put U+FFFD for what is no text and stop
// reading where the object ends; each of these lets two readers see two releases
// in one document.
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
	v, err := readValue(d, "", 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("there is something after the JSON object")
	}
	o, ok := v.(object)
	if !ok {
		return nil, fmt.Errorf("it must be a JSON object, not %s", kind(v))
	}
	return o, nil
}

// readValue reads the next value; at is its place, for errors.
func readValue(d *json.Decoder, at string, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("it nests deeper than %d levels", maxDepth)
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
			key := k.(string) // the decoder takes nothing else for a key
			if _, twice := o[key]; twice {
				return nil, fmt.Errorf("%s is there twice", join(at, key))
			}
			if o[key], err = readValue(d, join(at, key), depth+1); err != nil {
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
			v, err := readValue(d, at+"["+strconv.Itoa(len(a))+"]", depth+1)
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

// checkEscapes refuses \u escapes that are no text: NUL and halves of surrogate
// pairs. JSON has backslashes in strings only; bad escapes are the decoder's.
func checkEscapes(b []byte) error {
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			continue
		}
		i++
		r, ok := unit(b[i:])
		if !ok {
			continue
		}
		i += 4
		low, paired := rune(0), false
		if i+2 < len(b) && b[i+1] == '\\' {
			low, paired = unit(b[i+2:])
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

// unit reads "uXXXX" at the start of b.
func unit(b []byte) (rune, bool) {
	if len(b) < 5 || b[0] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[1:5]), 16, 16)
	return rune(n), err == nil
}

// join makes "platforms.linux-amd64" of its parts; a key that would make a line
// hard to read is quoted.
func join(at, key string) string {
	if q := strconv.Quote(key); len(q) != len(key)+2 || strings.ContainsAny(key, ". ") || key == "" || len(key) > 80 {
		key = fmt.Sprintf("%.80s", q)
	}
	if at == "" {
		return key
	}
	return at + "." + key
}

// kind is what a person calls a decoded value.
func kind(v any) string {
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

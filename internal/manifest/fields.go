package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
)

// maxBytes is the greatest size in a manifest, in bytes: 1 TiB. It is above that of any
// release, and low enough that sums of sizes cannot overflow.
const maxBytes = 1 << 40

var (
	validFile   = late(`^[A-Za-z0-9][A-Za-z0-9.+_~-]*$`)
	validDigest = late(`^[0-9a-f]{64}$`)
	validSHA512 = late(`^[0-9a-f]{128}$`)
)

// late returns a function that compiles a regular expression once, when it is called first:
// each step of an update is a process of its own, and needs few of them.
func late(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// reader reads the fields of the decoded document and keeps the first error.
type reader struct{ err error }

func (r *reader) fail(at, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: %s", at, fmt.Sprintf(format, args...))
	}
}

// checkEntry checks the name of an archive's entry; at is its place in the document.
func (r *reader) checkEntry(at, name string) {
	switch {
	case !fs.ValidPath(name): // "." is a file that is the program itself
		r.fail(at, "not a plain relative path in the archive")
	case strings.ContainsFunc(name, unicode.IsControl):
		r.fail(at, "a name must not contain control characters")
	case len(name) > 1024:
		r.fail(at, "a name must not be longer than 1024 bytes")
	}
}

// fields is one object of the manifest, with its place in the document.
type fields struct {
	*reader
	at string
	o  object
}

// open returns the fields of v, which must be an object. It refuses keys that differ from
// a known key in case only.
func (r *reader) open(at string, v any, known ...string) fields {
	o, ok := v.(object)
	if !ok {
		r.fail(at, "must be an object, not %s", jsonType(v))
	}
	for _, want := range known {
		for key := range o {
			if key != want && strings.EqualFold(key, want) {
				r.fail(joinPath(at, want), "the key must be written exactly so, not %+q", key)
			}
		}
	}
	return fields{r, at, o}
}

func (f fields) has(key string) bool { _, ok := f.o[key]; return ok }

// value returns the value of a required key and its place.
func (f fields) value(key string) (at string, v any) {
	at = joinPath(f.at, key)
	v, ok := f.o[key]
	if !ok {
		f.fail(at, "missing")
	}
	return at, v
}

func (f fields) object(key string, known ...string) fields {
	at, v := f.value(key)
	return f.open(at, v, known...)
}

// as returns the value of a required key, which must be a T, and its place.
func as[T any](f fields, key, kind string) (at string, t T) {
	at, v := f.value(key)
	t, ok := v.(T)
	if !ok {
		f.fail(at, "must be %s, not %s", kind, jsonType(v))
	}
	return at, t
}

func (f fields) array(key string) (at string, a []any) { return as[[]any](f, key, "an array") }

func (f fields) string(key string) (at, s string) { return as[string](f, key, "a string") }

func (f fields) bool(key string) bool {
	_, b := as[bool](f, key, "true or false")
	return b
}

// number accepts only plain decimals: JSON readers differ about integers such as 1e3.
func (f fields) number(key string, least, most int64) int64 {
	at, n := as[json.Number](f, key, "a number")
	i, err := n.Int64()
	if err != nil || i < least || i > most || string(n) != strconv.FormatInt(i, 10) {
		f.fail(at, "must be a plain whole number from %d to %d", least, most)
	}
	return i
}

func (f fields) optional(key string, read func(string) string) string {
	if !f.has(key) {
		return ""
	}
	return read(key)
}

func (f fields) name(key string) string {
	at, s := f.string(key)
	if !ValidName(s) {
		f.fail(at, "must be 1 to 64 of A-Z a-z 0-9 . + _ ~ - and start with a letter or digit")
	}
	return s
}

func (f fields) time(key string) string {
	at, s := f.string(key)
	if _, err := time.Parse(time.RFC3339, s); err != nil {
		f.fail(at, "must be a time such as 2026-11-01T12:00:00Z")
	}
	return s
}

func (f fields) digest(key string) string {
	at, s := f.string(key)
	if !validDigest().MatchString(s) {
		f.fail(at, "must be 64 lower-case hex digits")
	}
	return s
}

func (f fields) sha512(key string) string {
	at, s := f.string(key)
	if !validSHA512().MatchString(s) {
		f.fail(at, "must be 128 lower-case hex digits")
	}
	return s
}

func (f fields) entry(key string) string {
	at, s := f.string(key)
	f.checkEntry(at, s)
	return s
}

func (f fields) file(key string) string {
	at, s := f.string(key)
	if err := checkFile(s); err != nil {
		f.fail(at, "%v", err)
	}
	return s
}

// ValidFile reports whether s is a plain file name, which needs no quoting in a URL or
// path: [A-Za-z0-9][A-Za-z0-9.+_~-]*, at most 255 bytes.
func ValidFile(s string) bool { return len(s) <= 255 && validFile().MatchString(s) }

// checkFile accepts a plain file name or an http(s) URL.
func checkFile(s string) error {
	if ValidFile(s) {
		return nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return errors.New("must be a plain file name (letters, digits, . + _ ~ -) or an http(s) URL")
	case u.User != nil:
		return errors.New("a URL must not carry a user name or password")
	case len(s) > 2048:
		return errors.New("a URL must not be longer than 2048 bytes")
	}
	return nil
}

package fetch

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

const cacheName = "manifest.json"

// maxCache bounds the cache's file: base64 of a manifest, and the rest.
const maxCache = 2 * manifest.MaxSize

// cache is the place of the last answer that came with an ETag: a manifest, or
// what an API says of a release. It answers only for the same address asked in
// the same way: what somebody slipped in while the server was not verified is
// forgotten when it is.
type cache struct {
	dir      string // "" for none
	url      string
	insecure bool
	usable   func(body []byte) bool
}

// cached is the file.
type cached struct {
	Format   int    `json:"format"`
	URL      string `json:"url"`
	Insecure bool   `json:"insecure,omitempty"` // the server was not verified
	ETag     string `json:"etag"`
	Body     []byte `json:"body"`
}

var entityTag = regexp.MustCompile(`^(W/)?"[!#-~]+"$`)

// usableTag tells an entity tag of RFC 9110, without the bytes above ASCII: it goes
// into a header again.
func usableTag(s string) bool { return len(s) <= 256 && entityTag.MatchString(s) }

// load returns what is known, and nothing when that cannot be used: the answer
// is then fetched as if for the first time, which also replaces a damaged file.
func (c cache) load() cached {
	if c.dir == "" {
		return cached{}
	}
	data, err := durable.ReadFile(filepath.Join(c.dir, cacheName), maxCache)
	if err != nil {
		return cached{}
	}
	var k cached
	if json.Unmarshal(data, &k) != nil || k.Format != state.Format ||
		k.URL != c.url || k.Insecure != c.insecure || !usableTag(k.ETag) || !c.usable(k.Body) {
		return cached{}
	}
	return k
}

// keep stores an answer that came with a usable ETag.
func (c cache) store(body []byte, etag string) error {
	if c.dir == "" || !usableTag(etag) {
		return nil
	}
	data, err := json.Marshal(cached{state.Format, c.url, c.insecure, etag, body})
	if err != nil {
		return fmt.Errorf("cannot keep the answer: %w", err)
	}
	return durable.WriteFile(filepath.Join(c.dir, cacheName), data, 0o644)
}

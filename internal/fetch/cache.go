package fetch

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

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

// entityTag is RFC 9110's, without the bytes above ASCII: it goes into a header
// again.
var entityTag = regexp.MustCompile(`^(W/)?"[!#-~]{1,256}"$`)

// load returns what is known, and nothing when that cannot be used: the answer
// is then fetched as if for the first time, which also replaces a damaged file.
func (c cache) load() cached {
	if c.dir == "" {
		return cached{}
	}
	root, err := os.OpenRoot(c.dir)
	if err != nil {
		return cached{}
	}
	defer root.Close()
	data, err := state.ReadEntry(root, cacheName, maxCache)
	if err != nil {
		return cached{}
	}
	var k cached
	if json.Unmarshal(data, &k) != nil || k.Format != state.Format ||
		k.URL != c.url || k.Insecure != c.insecure || !entityTag.MatchString(k.ETag) || !c.usable(k.Body) {
		return cached{}
	}
	return k
}

// keep stores an answer that came with a usable ETag.
func (c cache) keep(body []byte, etag string) error {
	if c.dir == "" || !entityTag.MatchString(etag) {
		return nil
	}
	data, err := json.Marshal(cached{state.Format, c.url, c.insecure, etag, body})
	if err != nil {
		return fmt.Errorf("cannot keep the answer: %w", err)
	}
	return state.WriteFile(filepath.Join(c.dir, cacheName), data, 0o644)
}

package source

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

const cacheName = "manifest.json"

// maxCache bounds the cache file in bytes: a manifest in base64, and the other fields.
const maxCache = 2 * manifest.MaxSize

// cache stores the last answer that came with an ETag: a manifest, or an API's answer
// about a release. It is used only for the same address asked in the same way, so what an
// attacker inserted while the server was not verified is not used once it is.
type cache struct {
	dir      string // "" for no cache
	url      string
	insecure bool
	usable   func(body []byte) bool
	// untagged says that answers without an ETag are kept, for what was learned of them.
	untagged bool
}

// keeps reports whether an answer with this ETag is kept.
func (c cache) keeps(etag string) bool { return download.UsableTag(etag) || c.untagged && etag == "" }

// cached is the content of the cache file.
type cached struct {
	Format   int    `json:"format"`
	URL      string `json:"url"`
	Insecure bool   `json:"insecure,omitempty"` // the server was not verified
	ETag     string `json:"etag"`
	Body     []byte `json:"body"`
}

// unless returns the header that requests an answer only if it has changed.
func unless(etag string) http.Header {
	h := http.Header{}
	if etag != "" {
		h.Set("If-None-Match", etag)
	}
	return h
}

// load returns the cached answer, or the zero value if it cannot be used. The answer is
// then downloaded as if for the first time, which also replaces a damaged file.
func (c cache) load() cached {
	if c.dir == "" {
		return cached{}
	}
	data, err := durable.ReadFile(filepath.Join(c.dir, cacheName), maxCache)
	var k cached
	if err != nil || json.Unmarshal(data, &k) != nil || k.Format != state.Format ||
		k.URL != c.url || k.Insecure != c.insecure || !c.keeps(k.ETag) || !c.usable(k.Body) {
		return cached{}
	}
	return k
}

// store stores an answer if one with this ETag is kept.
func (c cache) store(body []byte, etag string) error {
	if c.dir == "" || !c.keeps(etag) {
		return nil
	}
	data, err := json.Marshal(cached{state.Format, c.url, c.insecure, etag, body})
	if err != nil {
		return fmt.Errorf("cannot keep the answer: %w", err)
	}
	return durable.WriteFile(filepath.Join(c.dir, cacheName), data, 0o644)
}

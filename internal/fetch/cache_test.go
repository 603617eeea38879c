package fetch

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
)

// tagged serves a manifest with an ETag and counts its answers.
type tagged struct {
	body     []byte
	etag     string
	full     int
	notAgain int
}

func (h *tagged) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", h.etag)
	if h.etag != "" && r.Header.Get("If-None-Match") == h.etag {
		h.notAgain++
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.full++
	w.Write(h.body)
}

func TestCache(t *testing.T) {
	file := func(b *bench) string { return filepath.Join(b.tree.Dir(state.RoleFetch, "agent"), "manifest.json") }
	write := func(data string) func(t *testing.T, b *bench, h *tagged) {
		return func(t *testing.T, b *bench, h *tagged) {
			if err := os.WriteFile(file(b), []byte(data), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name    string
		etag    string
		between func(t *testing.T, b *bench, h *tagged)
		again   bool // the second run downloads the manifest again
	}{
		{"unchanged", `"abc"`, nil, false},
		{"weak", `W/"abc"`, nil, false},
		{"none", ``, nil, true},
		{"not quoted", `abc`, nil, true},
		{"changed", `"abc"`, func(t *testing.T, b *bench, h *tagged) { h.etag = `"def"` }, true},
		{"lost", `"abc"`, func(t *testing.T, b *bench, h *tagged) { os.Remove(file(b)) }, true},
		{"zeroed", `"abc"`, write("\x00\x00\x00\x00"), true},
		{"empty", `"abc"`, write(""), true},
		{"newer", `"abc"`, write(`{"format":2,"etag":"\"abc\""}`), true},
		{"another address", `"abc"`, func(t *testing.T, b *bench, h *tagged) { b.target.Source.URL += "?channel=beta" }, true},
		{"from a server that was not verified", `"abc"`, func(t *testing.T, b *bench, h *tagged) { b.target.Source.InsecureSkipTLS = true }, true},
		{"a manifest that is none", `"abc"`, func(t *testing.T, b *bench, h *tagged) {
			write(fmt.Sprintf(`{"format":1,"url":%q,"etag":"\"abc\"","body":%q}`, b.target.Source.URL,
				base64.StdEncoding.EncodeToString([]byte("<html>"))))(t, b, h)
		}, true},
		{"a FIFO", `"abc"`, func(t *testing.T, b *bench, h *tagged) {
			os.Remove(file(b))
			mkfifo(t, file(b))
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &tagged{body: marshal(t, release1()), etag: c.etag}
			s := newSite(t)
			s["/client-manifest.json"] = h.ServeHTTP
			b := newBench(t, serve(t, s))
			if a := b.run(t, b.order(state.VerbCheck, "v1")); a.Result != state.ResultAvailable || h.full != 1 {
				t.Fatalf("first run: %+v, %+v", a, h)
			}
			if c.between != nil {
				c.between(t, b, h)
			}
			// A 304 means "use the stored manifest", never "nothing to do".
			if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultHandedOn || a.Version != "v2" {
				t.Errorf("second run: %+v", a)
			}
			full, notAgain := 1, 1
			if c.again {
				full, notAgain = 2, 0
			}
			if h.full != full || h.notAgain != notAgain {
				t.Errorf("%d answers with the manifest, %d without; want %d, %d", h.full, h.notAgain, full, notAgain)
			}
		})
	}
}

// TestCacheIsNotTrusted checks that a cached answer is verified like a new one.
func TestCacheIsNotTrusted(t *testing.T) {
	h := &tagged{body: marshal(t, release1()), etag: `"abc"`}
	s := newSite(t)
	s["/client-manifest.json"] = h.ServeHTTP
	b := newBench(t, serve(t, s))
	b.run(t, b.order(state.VerbCheck, "v1"))
	b.target.Trust.Product = "server"
	b.mustFail(t, b.run(t, b.order(state.VerbApply, "v1")), state.ResultRefused, "product")
	if h.notAgain != 1 {
		t.Error("the cache was not used")
	}
}

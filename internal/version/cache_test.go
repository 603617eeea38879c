package version

import (
	"fmt"
	"strings"
	"testing"
)

// TestCache: strangers' versions do not fill the memory, and a cached answer is the same.
func TestCache(t *testing.T) {
	for range 2 {
		if !Lower("1.2.3", "1.10.0") || Ordered("build-82") {
			t.Error("another order")
		}
	}
	for i := range 3 * maxParsed {
		Ordered(fmt.Sprint("1.", i))
	}
	Ordered("1.2.3-" + strings.Repeat("a", maxCached))
	if n := len(parsed.by); n > maxParsed {
		t.Errorf("%d versions are kept", n)
	}
	for v := range parsed.by {
		if len(v) > maxCached {
			t.Errorf("%.20q… is kept, of %d bytes", v, len(v))
		}
	}
}

func BenchmarkLower(b *testing.B) {
	for b.Loop() {
		Lower("v1.2.3", "v1.10.0")
	}
}

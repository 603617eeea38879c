package trust

import (
	"testing"
	"time"
)

func TestBuilt(t *testing.T) {
	if got := parseBuilt("1795651200"); !got.Equal(time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("got %s", got)
	}
	if got := parseBuilt(""); !got.IsZero() {
		t.Errorf("not told, and %s", got)
	}
}

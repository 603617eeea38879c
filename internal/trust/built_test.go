package trust

import (
	"testing"
	"time"
)

func TestBuilt(t *testing.T) {
	defer func(linked string) { built = linked }(built)
	built = "1795651200"
	if got := Built(); !got.Equal(time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("got %s", got)
	}
	built = ""
	if got := Built(); !got.IsZero() {
		t.Errorf("not told, and %s", got)
	}
}

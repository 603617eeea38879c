package nearest

import (
	"strings"
	"testing"
)

func TestHint(t *testing.T) {
	known := []string{"url", "type", "repo", "to", "from", "timeout_seconds"}
	for name, want := range map[string]string{
		"typ": "type", "ulr": "url", "Type": "type", "reppo": "repo", "timeout_second": "timeout_seconds", "form": "from", "ot": "", "x": "", "": "",
		"port": "", "settings": "", strings.Repeat("k", 1<<20): "",
	} {
		got := Hint(name, known)
		if want != "" {
			want = `did you mean "` + want + `"?`
		}
		if got != want {
			t.Errorf("%.20s: %q, want %q", name, got, want)
		}
	}
}

package state

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// TestLooked: a file that was read is remembered, except one whose digest not all users may
// know.
func TestLooked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	content := bytes.Repeat([]byte("x"), worthALook)
	then := time.Now().Add(-time.Hour)
	sum, _, err := durable.SHA256(bytes.NewReader(content))
	if err := errors.Join(err, os.WriteFile(path, content, 0o600), os.Chtimes(path, then, then)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		file File
		same bool
		kept int
	}{
		"same":    {File{To: path, SHA256: sum}, true, 1},
		"other":   {File{To: path, SHA256: "0"}, false, 0},
		"private": {File{To: path, SHA256: sum, Private: true}, true, 0},
	} {
		l := Looked{}
		if same := l.Same(c.file); same != c.same || len(l) != c.kept {
			t.Errorf("%s: %t, want %t, remembers %v", name, same, c.same, l)
		}
	}
}

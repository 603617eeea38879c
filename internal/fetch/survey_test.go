package fetch

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// TestSurvey: the archive of a source without a target is copied as it is, and one that the
// manifest does not describe is refused.
func TestSurvey(t *testing.T) {
	dir := t.TempDir()
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	s := Surveyed{Type: target.SourceManifest, Address: server.URL + "/" + manifest.FileName}
	ask := func() (answer Survey) {
		t.Helper()
		var out strings.Builder
		if err := AnswerSurvey(t.Context(), s, &out); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(out.String()), &answer); err != nil {
			t.Fatal(err)
		}
		return answer
	}
	if got := ask(); got.Result == "" || !strings.Contains(got.Error, "404") {
		t.Errorf("without a manifest: %+v", got)
	}
	m := release1()
	for name, content := range map[string][]byte{manifest.FileName: marshal(t, m), "agent.tar.gz": payload} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := ask(); got.Error != "" || got.Version != m.Version || got.Product != m.Product || got.File != "agent.tar.gz" || got.Size != int64(len(payload)) {
		t.Errorf("%+v", got)
	}
	var archive strings.Builder
	if err := WriteArchive(t.Context(), s, &archive); err != nil || archive.String() != string(payload) {
		t.Errorf("%d bytes, %v", archive.Len(), err)
	}
	other := append([]byte{}, payload...)
	other[0]++
	if err := os.WriteFile(filepath.Join(dir, "agent.tar.gz"), other, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteArchive(t.Context(), s, &archive); state.ResultOf(err) != state.ResultRefused {
		t.Errorf("another archive: %v", err)
	}
}

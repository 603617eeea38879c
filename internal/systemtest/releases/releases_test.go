package releases

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestServer(t *testing.T) {
	dir := t.TempDir()
	content := make([]byte, 5000)
	if err := os.WriteFile(filepath.Join(dir, "a"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Serve(l, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	etag := ""
	get := func(path string) (status, length int, err error) {
		t.Helper()
		request, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+l.Addr().String()+path, nil)
		request.Header.Set("If-None-Match", etag)
		r, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		etag = r.Header.Get("ETag")
		b, err := io.ReadAll(r.Body)
		return r.StatusCode, len(b), err
	}
	expect := func(path string, wantStatus, wantLength int, wantErr bool) {
		t.Helper()
		status, length, err := get(path)
		if status != wantStatus || length != wantLength || (err != nil) != wantErr {
			t.Errorf("%s: got %d with %d bytes, %v; want %d with %d, error %v", path, status, length, err, wantStatus, wantLength, wantErr)
		}
	}

	expect("/a", 200, 5000, false)
	expect("/a", 304, 0, false)
	expect("/none", 404, 19, false)
	s.Break("/a", Status(403))
	expect("/a", 403, 10, false)
	s.Break("/a", Content([]byte("x")))
	expect("/a", 200, 1, false)
	s.Break("/a", Cut(2000))
	expect("/a", 200, 2048, true)
	etag = ""
	s.Break("/a", Die(2000))
	expect("/a", 200, 2048, true)
	if r, err := http.Get("http://" + l.Addr().String() + "/a"); err == nil {
		r.Body.Close()
		t.Error("a dead server answered")
	}
	etag = ""
	s.Break("/a", Slow(time.Millisecond))
	expect("/a", 200, 5000, false)
	s.Mend("/a")
	etag = ""
	expect("/a", 200, 5000, false)

	var statuses []int
	for _, r := range s.Requests() {
		statuses = append(statuses, r.Status)
	}
	if want := []int{200, 304, 404, 403, 200, 200, 200, 0, 200, 200}; !slices.Equal(statuses, want) {
		t.Errorf("recorded %v, want %v", statuses, want)
	}
}

package gate

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// byDigest is a name that never stands for other bytes.
var byDigest = regexp.MustCompile(`^[0-9a-f]{64}\.`)

// servable tells whether a name may be asked for: no way out of the directory, and
// no dot file, which is what publishers write before it gets its name.
func servable(name string) bool {
	return fs.ValidPath(name) && name != "." && !strings.HasPrefix(name, ".") && !strings.Contains(name, "/.")
}

// open opens a regular file below the download directory; the error is
// fs.ErrNotExist where there is none that may be served.
func (g *Gate) open(name string) (*os.File, fs.FileInfo, error) {
	if !servable(name) {
		return nil, nil, fs.ErrNotExist
	}
	// Opened for every request: the directory may be another one by now.
	root, err := os.OpenRoot(g.config.DownloadDir)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	// A FIFO would make a plain open wait.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// download serves a file; false where there is none, which makes it upstream's matter.
func (g *Gate) download(w http.ResponseWriter, r *http.Request, name string) bool {
	f, info, err := g.open(name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			// Only once: who asks for a bad name and a good one in turns would fill the journal.
			g.once.say("download", fmt.Sprintf("cannot serve from %s: %v", g.config.DownloadDir, err))
		}
		return false
	}
	defer f.Close()
	g.count.downloads.Add(1)
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Type", contentType(name))
	// Archives keep their names from release to release: a cache has to ask.
	h.Set("Cache-Control", "no-cache")
	if byDigest.MatchString(path.Base(name)) {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	h.Set("ETag", etag(info))
	if name == g.config.Manifest && g.stopped() {
		if body, err := disabled(f); err == nil {
			h.Set("ETag", `"`+manifest.Digest(body)+`"`)
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(body)))
			return true
		}
		// What is no manifest disables itself.
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return false
		}
	}
	http.ServeContent(w, r, "", info.ModTime(), f)
	return true
}

// disabled is the manifest with the publisher's own kill switch set. Signed clients
// read it under the name of its digest, and never see this one.
func disabled(f *os.File) ([]byte, error) {
	m, err := parse(f)
	if err != nil {
		return nil, err
	}
	m.Disabled = true
	return m.Marshal()
}

// etag is strong: a file that is published again is another file, or has another time.
func etag(info fs.FileInfo) string {
	inode := info.Sys().(*syscall.Stat_t).Ino
	return fmt.Sprintf(`"%x-%x-%x"`, info.Size(), info.ModTime().UnixNano(), inode)
}

func contentType(name string) string {
	switch path.Ext(name) {
	case ".json":
		return "application/json"
	case ".gz", ".tgz":
		return "application/gzip"
	}
	return "application/octet-stream"
}

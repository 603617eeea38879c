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

// hosts reports whether upstream can have a file of this name in its /download/. It serves
// a list, its installer and archives, and answers 400 to all other names, which clients
// that look for signed metadata take for a failure.
func hosts(name string) bool {
	return name == "" || name == "install.sh" || strings.HasSuffix(name, ".tar.gz") && !strings.Contains(name, "/") && !byDigest.MatchString(name)
}

// byDigest matches a name that begins with its content's SHA-256, so never changes.
var byDigest = regexp.MustCompile(`^[0-9a-f]{64}\.`)

// servable reports whether the gate may serve a file of this name: it must not lead out
// of the directory, nor begin with a dot, as a publisher's unfinished files do.
func servable(name string) bool {
	return fs.ValidPath(name) && name != "." && !strings.HasPrefix(name, ".") && !strings.Contains(name, "/.")
}

// open opens a regular file below the download directory. The error is fs.ErrNotExist
// if there is none, or if the gate must not serve it.
func (g *Gate) open(name string) (*os.File, fs.FileInfo, error) {
	if !servable(name) {
		return nil, nil, fs.ErrNotExist
	}
	return g.openAny(name)
}

// openAny opens a regular file below the download directory, whether it is served or not.
func (g *Gate) openAny(name string) (*os.File, fs.FileInfo, error) {
	// Each request opens the directory, which the operator may have replaced.
	root, err := os.OpenRoot(g.config.DownloadDir)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	// Without O_NONBLOCK, opening a FIFO would wait for its writer.
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

// download serves a file. It reports false, without an answer, if the gate has none of
// this name, but upstream may have one.
func (g *Gate) download(w http.ResponseWriter, r *http.Request, name string) bool {
	m, p, broken := g.published(name)
	switch {
	case m != nil:
		g.serveInstaller(w, r, name, m, p)
	case g.serveFile(w, r, name):
	case !hosts(name):
		http.NotFound(w, r)
	case broken:
		http.Error(w, "the gate cannot read its manifest", http.StatusServiceUnavailable)
	default:
		return false
	}
	return true
}

// serveFile serves a file of the download directory, and reports whether there is one.
func (g *Gate) serveFile(w http.ResponseWriter, r *http.Request, name string) bool {
	f, info, err := g.open(name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			// No download ends this problem: a client that requests a bad name and a
			// good one in turns would fill the journal.
			g.problems.Begin("download", fmt.Sprintf("cannot serve from %s: %v%s", g.config.DownloadDir, err, unreadable(err)))
		}
		return false
	}
	defer f.Close()
	g.count.downloads.Add(1)
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Type", contentType(name))
	// The next release's archive may have the same name, so caches must revalidate.
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
		// The file is not a valid manifest, so no client will act on it; serve it unchanged.
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return false
		}
	}
	http.ServeContent(w, r, "", info.ModTime(), f)
	return true
}

// disabled returns the manifest in f with the publisher's kill switch, disabled, set.
// Clients that trust signatures request it by its digest, and get the file itself.
func disabled(f *os.File) ([]byte, error) {
	m, err := parse(f)
	if err != nil {
		return nil, err
	}
	m.Disabled = true
	return m.Marshal()
}

// etag returns a strong ETag: replacing a file changes its time or its inode.
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

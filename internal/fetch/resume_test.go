package fetch

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// shaky serves an archive with one answer per request, repeats the last one, and records
// the requests.
type shaky struct {
	answers []http.HandlerFunc

	mu     sync.Mutex
	ranges []string // of each request; "" for the whole archive
	sent   int64
}

func (s *shaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	answer := s.answers[min(len(s.ranges), len(s.answers)-1)]
	s.ranges = append(s.ranges, r.Header.Get("Range"))
	s.mu.Unlock()
	answer(&counting{w, s}, r)
}

// asked returns an R for each request for the rest, and an A for each for all.
func (s *shaky) asked() (asked string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.ranges {
		asked += map[bool]string{true: "A", false: "R"}[r == ""]
	}
	return asked
}

func (s *shaky) bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

type counting struct {
	http.ResponseWriter
	s *shaky
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.sent += int64(n)
	return n, err
}

func (c *counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// offered returns a correct server's answer with this ETag.
func offered(content []byte, etag string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if etag != "" {
			w.Header().Set("ETag", etag)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
}

// cut sends only n bytes of an answer.
func cut(n int64, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { releases.Cut(n)(w, r, answer) }
}

// partOf answers with a 206 and ignores If-Range. Its part of the archive is shifted by
// this many bytes, and lie changes the header.
func partOf(shift int, lie func(h http.Header)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		from, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-"))
		if err != nil {
			offered(payload, `"1"`)(w, r)
			return
		}
		from += shift
		h := w.Header()
		h.Set("ETag", `"1"`)
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(payload)-1, len(payload)))
		h.Set("Content-Length", strconv.Itoa(len(payload)-from))
		lie(h)
		w.WriteHeader(http.StatusPartialContent)
		w.Write(payload[from:])
	}
}

const cutAt = 100_000

// kept returns how many bytes are stored for the next attempt, or -1.
func (b *bench) kept(t *testing.T) int64 {
	t.Helper()
	dir := b.tree.Dir(state.RoleFetch, "agent")
	info, err := os.Stat(filepath.Join(dir, "partial"))
	_, missing := os.Stat(filepath.Join(dir, "partial.json"))
	if errors.Is(err, fs.ErrNotExist) && errors.Is(missing, fs.ErrNotExist) {
		return -1
	}
	if err != nil || missing != nil {
		t.Fatal(err, missing)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("what came has mode %v", info.Mode())
	}
	return info.Size()
}

// TestResume cuts a connection; the next answer continues the archive, or does not.
func TestResume(t *testing.T) {
	testkit.Slow(t)
	first := cut(cutAt, offered(payload, `"1"`))
	good := offered(payload, `"1"`)
	set := func(name, value string) func(http.Header) {
		return func(h http.Header) { h.Set(name, value) }
	}
	anew := func(n int64) http.HandlerFunc { // like a server without ranges
		return func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			cut(n, good)(w, r)
		}
	}
	other := bytes.ReplaceAll(payload, []byte("archive"), []byte("ARCHIVE"))
	n := len(payload)
	size := strconv.Itoa(n)
	encoded := partOf(0, set("Content-Encoding", "gzip"))
	for _, c := range []struct {
		name    string
		answers []http.HandlerFunc
		result  state.Result
		text    string
		kept    bool
		asked   string // in the format of shaky.asked
	}{
		{"every 100 kB", []http.HandlerFunc{first}, state.ResultHandedOn, "", false, "ARRR"},
		{"once", []http.HandlerFunc{first, good}, state.ResultHandedOn, "", false, "AR"},
		{"not before the headers", []http.HandlerFunc{first, raw("", false), raw("HTTP/1.1 2", false), good}, state.ResultHandedOn, "", false, "ARRR"},

		{"it changed: 200", []http.HandlerFunc{first, offered(payload, `"2"`)}, state.ResultHandedOn, "", false, "AR"},
		{"it changed: 200, cut again", []http.HandlerFunc{first, cut(cutAt, offered(payload, `"2"`)), offered(payload, `"2"`)}, state.ResultHandedOn, "", false, "ARR"},
		{"If-Range ignored, another ETag", []http.HandlerFunc{first, partOf(0, set("ETag", `"2"`)), good}, state.ResultHandedOn, "", false, "ARA"},
		{"If-Range ignored, no ETag", []http.HandlerFunc{first, partOf(0, func(h http.Header) { h.Del("ETag") }), good}, state.ResultHandedOn, "", false, "ARA"},
		{"a weak ETag", []http.HandlerFunc{first, partOf(0, set("ETag", `W/"1"`)), good}, state.ResultHandedOn, "", false, "ARA"},
		{"range shifted back", []http.HandlerFunc{first, partOf(-9, func(http.Header) {}), good}, state.ResultHandedOn, "", false, "ARA"},
		{"range shifted on", []http.HandlerFunc{first, partOf(9, func(http.Header) {}), good}, state.ResultHandedOn, "", false, "ARA"},
		{"range of something longer", []http.HandlerFunc{first, partOf(0, set("Content-Range", "bytes 0-"+size+"/"+strconv.Itoa(n+1))), good}, state.ResultHandedOn, "", false, "ARA"},
		{"no Content-Range", []http.HandlerFunc{first, partOf(0, func(h http.Header) { h.Del("Content-Range") }), good}, state.ResultHandedOn, "", false, "ARA"},
		{"several ranges", []http.HandlerFunc{first, partOf(0, func(h http.Header) {
			h.Del("Content-Range")
			h.Set("Content-Type", "multipart/byteranges; boundary=x")
		}), good}, state.ResultHandedOn, "", false, "ARA"},
		{"no length", []http.HandlerFunc{first, partOf(0, func(h http.Header) { h.Del("Content-Length") }), good}, state.ResultHandedOn, "", false, "ARA"},
		{"the rest encoded", []http.HandlerFunc{first, encoded, good}, state.ResultHandedOn, "", false, "ARA"},
		{"416", []http.HandlerFunc{first, status(416), good}, state.ResultHandedOn, "", false, "ARA"},
		{"416 always", []http.HandlerFunc{first, status(416)}, state.ResultNotDownloaded, "answered 416", true, "A" + strings.Repeat("RA", 4)},
		{"other bytes under the same ETag", []http.HandlerFunc{first, offered(other, `"1"`), good}, state.ResultHandedOn, "", false, "ARA"},
		{"nothing but other bytes", []http.HandlerFunc{first, offered(other, `"1"`)}, state.ResultRefused, "its sha256 is " + manifest.Digest(other), false, "ARA"},
		{"nothing but other bytes, in pieces", []http.HandlerFunc{cut(cutAt, offered(other, `"1"`))}, state.ResultRefused, "its sha256 is", false, "ARRRARRR"},
		{"it became longer", []http.HandlerFunc{first, offered(append(payload[:n:n], 'x'), `"2"`)}, state.ResultRefused, "offers " + strconv.Itoa(n+1) + " bytes", false, "AR"},
		{"it became shorter", []http.HandlerFunc{first, offered(payload[:n-1], `"2"`)}, state.ResultRefused, "offers " + strconv.Itoa(n-1) + " bytes", false, "AR"},

		{"no ETag", []http.HandlerFunc{cut(cutAt, offered(payload, ""))}, state.ResultNotDownloaded, "the connection was cut", false, "A"},
		{"a weak ETag from the beginning", []http.HandlerFunc{cut(cutAt, offered(payload, `W/"1"`))}, state.ResultNotDownloaded, "the connection was cut", false, "A"},
		{"anew each time", []http.HandlerFunc{first, anew(2 * cutAt), anew(cutAt), anew(3 * cutAt)}, state.ResultNotDownloaded, "the connection was cut", true, "ARRRR"},
		{"hardly anything each time", []http.HandlerFunc{cut(1000, offered(payload, `"1"`))}, state.ResultNotDownloaded, "the connection was cut", true, "ARRR"},
		{"gone", []http.HandlerFunc{first, status(500)}, state.ResultNotDownloaded, "500 Internal Server Error", true, "ARRRR"},
		{"it stalls", []http.HandlerFunc{first, raw(fmt.Sprintf("HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: %d\r\n\r\n", n), true)},
			state.ResultNotDownloaded, "it stalled", false, "ARAAA"},
		{"no more requests for a while", []http.HandlerFunc{first, status(429)}, state.ResultNotDownloaded, "it takes no more requests until", true, "AR"},
		{"the same with 503", []http.HandlerFunc{first, status(503)}, state.ResultNotDownloaded, "it takes no more requests until", true, "AR"},
		{"redirected elsewhere", []http.HandlerFunc{first, redirect("http://127.0.0.2/agent.tar.gz")}, state.ResultRefused, "not on the manifest's origin", false, "AR"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			archive := &shaky{answers: c.answers}
			s := newSite(t)
			s["/agent.tar.gz"] = archive.ServeHTTP
			b := newBench(t, serve(t, s))
			b.limits.Stall = 300 * time.Millisecond
			a := b.run(t, b.order(state.VerbApply, "v1"))
			if asked := archive.asked(); asked != c.asked {
				t.Errorf("asked %s, want %s: %q", asked, c.asked, archive.ranges)
			}
			if c.result == state.ResultHandedOn {
				b.brought(t, a, string(marshal(t, release1())))
			}
			if kept := b.kept(t); (kept > 0) != c.kept || !c.kept && kept != -1 {
				t.Errorf("%d bytes are kept", kept)
			} else if c.kept {
				if a.Result != c.result || !strings.Contains(a.Reason, c.text) || len(b.spool(t)) > 0 {
					t.Errorf("%+v, in the spool: %q", a, b.spool(t))
				}
			} else if c.result != state.ResultHandedOn {
				b.mustFail(t, a, c.result, c.text)
			}
			if strings.Trim(c.asked[1:], "R") == "" && c.result == state.ResultHandedOn && !strings.HasPrefix(c.name, "it changed") {
				if most := int64(n + n/20); archive.bytes() > most {
					t.Errorf("%d bytes were sent, at most %d are allowed", archive.bytes(), most)
				}
				if !slices.IsSorted(b.reports) {
					t.Errorf("the progress went back: %d", b.reports)
				}
			}
		})
	}
}

// TestPartialFile checks that the next attempt on the same archive resumes a failed one.
func TestPartialFile(t *testing.T) {
	testkit.Slow(t)
	renamed := func(t *testing.T, s site) {
		s["/again.tar.gz"] = s["/agent.tar.gz"]
		s["/client-manifest.json"] = bytesHandler(marshal(t, edit(release1(), func(p *manifest.Platform) { p.File = "again.tar.gz" })))
	}
	content := func(change func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, "partial")
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, change(b), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	aboutIt := func(old, new string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, "partial.json")
			b, err := os.ReadFile(path)
			if !strings.Contains(string(b), old) {
				t.Fatalf("%s has no %s: %v", b, old, err)
			}
			if err := os.WriteFile(path, []byte(strings.Replace(string(b), old, new, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	zeros := func(b []byte) []byte { return append(b[:len(b)-5000], make([]byte, 5000)...) }
	for _, c := range []struct {
		name   string
		change func(t *testing.T, dir string)
		site   func(t *testing.T, s site)
		asked  string // in the format of shaky.asked
	}{
		{"as it was left", nil, nil, "R"},
		{"a power cut took its end", content(zeros), nil, "RA"},
		{"empty", content(func([]byte) []byte { return nil }), nil, "A"},
		{"whole, before it was handed on", content(func([]byte) []byte { return payload }), nil, ""},
		{"whole, and damaged", content(func([]byte) []byte { return zeros(slices.Clone(payload)) }), nil, "A"},
		{"longer than the archive", content(func([]byte) []byte { return append(slices.Clone(payload), 'x') }), nil, "A"},
		{"of a newer program", aboutIt(`"format":1`, `"format":2`), nil, "A"},
		{"damaged", aboutIt(`{`, ``), nil, "A"},
		{"of another digest", aboutIt(manifest.Digest(payload), manifest.Digest(nil)), nil, "A"},
		{"of another size", aboutIt(`"size":340000`, `"size":340001`), nil, "A"},
		{"under a weak ETag", aboutIt(`"etag":"\"`, `"etag":"W/\"`), nil, "A"},
		{"from another server", aboutIt(`http://127`, `https://127`), nil, "A"},
		{"from another address", nil, renamed, "A"},
		{"for six days", aged(6 * 24 * time.Hour), nil, "R"},
		{"for eight days", aged(8 * 24 * time.Hour), nil, "A"},
	} {
		t.Run(c.name, func(t *testing.T) {
			archive := &shaky{answers: []http.HandlerFunc{cut(cutAt, offered(payload, `"1"`)), status(404)}}
			s := newSite(t)
			s["/agent.tar.gz"] = archive.ServeHTTP
			b := newBench(t, serve(t, s))
			if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultNotDownloaded {
				t.Fatalf("%+v", a)
			}
			kept := b.kept(t)
			if kept < cutAt/2 {
				t.Fatalf("%d bytes are kept", kept)
			}
			if c.change != nil {
				c.change(t, b.tree.Dir(state.RoleFetch, "agent"))
			}
			if c.site != nil {
				c.site(t, s)
			}
			archive.answers, archive.ranges, b.reports = []http.HandlerFunc{offered(payload, `"1"`)}, nil, nil
			b.brought(t, b.run(t, b.order(state.VerbApply, "v1")), string(marshal(t, manifestOf(t, s))))
			if asked := archive.asked(); asked != c.asked {
				t.Errorf("asked %s, want %s", asked, c.asked)
			}
			if c.asked == "R" && (b.reports[0] < kept || archive.ranges[0] != fmt.Sprintf("bytes=%d-", kept)) {
				t.Errorf("it went on from %s, at %d", archive.ranges[0], b.reports[0])
			}
			if kept := b.kept(t); kept != -1 {
				t.Errorf("%d bytes are kept after it came", kept)
			}
		})
	}
}

// aged lets a piece be older.
func aged(by time.Duration) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		then := time.Now().Add(-by)
		must(t, os.Chtimes(filepath.Join(dir, "partial"), then, then))
	}
}

// TestPartialFileSmallDisk checks that a piece is kept, and used, only if half of a small
// disk is free.
func TestPartialFileSmallDisk(t *testing.T) {
	testkit.NeedRoot(t, "it mounts a small disk")
	failing := func() *shaky {
		return &shaky{answers: []http.HandlerFunc{cut(cutAt, offered(payload, `"1"`)), status(404)}}
	}
	for _, c := range []struct {
		name          string
		before, later int // bytes that others store before the first attempt and after it
		kept          bool
		asked         string
	}{
		{"room", 1 << 20, 0, true, "R"},
		{"too full", 3 << 20, 0, false, "A"},
		{"full later", 1 << 20, 2 << 20, true, "A"},
	} {
		t.Run(c.name, func(t *testing.T) {
			archive := failing()
			s := newSite(t)
			s["/agent.tar.gz"] = archive.ServeHTTP
			b := newBench(t, serve(t, s))
			disk := b.tree.Dir(state.RoleFetch, "agent")
			if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); err != nil {
				t.Skip("cannot mount: ", err)
			}
			t.Cleanup(func() { unix.Unmount(disk, 0) })
			must(t, os.WriteFile(filepath.Join(disk, "earlier"), make([]byte, c.before), 0o600))
			if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultNotDownloaded {
				t.Fatalf("%+v", a)
			}
			if kept := b.kept(t); kept > 0 != c.kept {
				t.Errorf("%d bytes are kept", kept)
			}
			must(t, os.WriteFile(filepath.Join(disk, "later"), make([]byte, c.later), 0o600))
			archive.answers, archive.ranges = []http.HandlerFunc{offered(payload, `"1"`)}, nil
			if a := b.run(t, b.order(state.VerbApply, "v1")); a.Result != state.ResultHandedOn {
				t.Errorf("%+v", a)
			}
			if asked := archive.asked(); asked != c.asked {
				t.Errorf("asked %s, want %s", asked, c.asked)
			}
		})
	}
}

// manifestOf returns the manifest that a site publishes.
func manifestOf(t *testing.T, s site) *manifest.Manifest {
	t.Helper()
	if s["/again.tar.gz"] != nil {
		return edit(release1(), func(p *manifest.Platform) { p.File = "again.tar.gz" })
	}
	return release1()
}

// TestPartialFileForgotten checks that a part is kept only while its archive is offered.
func TestPartialFileForgotten(t *testing.T) {
	for _, c := range []struct {
		name      string
		manifest  http.HandlerFunc // the later one; nil for the same
		verb      state.Verb
		installed string
		result    state.Result
		kept      bool
	}{
		{"still on offer", nil, state.VerbCheck, "v1", state.ResultAvailable, true},
		{"nobody knows", status(500), state.VerbCheck, "v1", state.ResultNotDownloaded, true},
		{"installed by other means", nil, state.VerbCheck, "v2", state.ResultCurrent, false},
		{"another archive", bytesHandler(marshal(t, edit(release1(), func(p *manifest.Platform) { p.SHA256 = manifest.Digest(nil) }))),
			state.VerbCheck, "v1", state.ResultAvailable, false},
		{"no room for the rest", bytesHandler(marshal(t, edit(release1(), func(p *manifest.Platform) { p.UnpackedSize = 1 << 40 }))),
			state.VerbApply, "v1", state.ResultFailed, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s["/agent.tar.gz"] = (&shaky{answers: []http.HandlerFunc{cut(cutAt, offered(payload, `"1"`)), status(404)}}).ServeHTTP
			b := newBench(t, serve(t, s))
			b.run(t, b.order(state.VerbApply, "v1"))
			if kept := b.kept(t); kept < cutAt/2 {
				t.Fatalf("%d bytes are kept", kept)
			}
			if c.manifest != nil {
				s["/client-manifest.json"] = c.manifest
			}
			if a := Look(t.Context(), b.tree, b.target, c.installed); c.verb == state.VerbCheck && a.Result != c.result || b.kept(t) < cutAt/2 {
				t.Errorf("a look touched it: %+v", a)
			}
			if a := b.run(t, b.order(c.verb, c.installed)); a.Result != c.result {
				t.Errorf("%+v", a)
			}
			if kept := b.kept(t); kept > 0 != c.kept {
				t.Errorf("%d bytes are kept", kept)
			}
		})
	}
}

// TestResumeElsewhere has storage that signs a new address for each request, and archives
// without manifest. A later attempt does not resume one of unknown digest.
func TestResumeElsewhere(t *testing.T) {
	for _, c := range []struct {
		name  string
		bench func(t *testing.T, shaken func(http.Handler) http.Handler) (*bench, state.Order)
		kept  bool
	}{
		{"GitHub", func(t *testing.T, shaken func(http.Handler) http.Handler) (*bench, state.Order) {
			b := onGitHub(t, serve(t, shaken(newGitHubServer(build18()))))
			return b, b.order(state.VerbApply, "v1")
		}, true},
		{"GitHub, no digest", func(t *testing.T, shaken func(http.Handler) http.Handler) (*bench, state.Order) {
			b := onGitHub(t, serve(t, shaken(newGitHubServer(undigested()))))
			b.target.Trust.AllowUnauthenticated = true
			return b, b.order(state.VerbApply, "v1")
		}, false},
		{"named, with its digest", named(manifest.Digest(payload)), true},
		{"named, without", named(""), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var total shaky
			var away bool // after the first cut, only the first request for the archive succeeds
			shaken := func(good http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					file := strings.HasPrefix(r.URL.Path, "/storage/") || strings.HasPrefix(r.URL.Path, "/d/")
					switch {
					case file && away && r.Header.Get("Range") != "":
						http.NotFound(w, r)
					case file:
						releases.Cut(cutAt)(&counting{w, &total}, r, good)
					default:
						good.ServeHTTP(w, r)
					}
				})
			}
			b, order := c.bench(t, shaken)
			if a := b.run(t, order); a.Result != state.ResultHandedOn {
				t.Fatalf("%+v", a)
			}
			if most := int64(len(payload) + len(payload)/20); strings.HasPrefix(c.name, "GitHub") && total.bytes() > most {
				t.Errorf("%d bytes were sent, at most %d are allowed", total.bytes(), most)
			}
			if err := os.RemoveAll(b.tree.Ready(state.RoleFetch, "agent")); err != nil {
				t.Fatal(err)
			}
			away = true
			if c.name == "GitHub, no digest" {
				if err := os.Remove(filepath.Join(b.tree.Dir(state.RoleFetch, "agent"), "manifest.json")); err != nil {
					t.Fatal(err) // the cache has the digest
				}
			}
			if a := b.run(t, order); a.Result != state.ResultNotDownloaded {
				t.Fatalf("%+v", a)
			}
			if kept := b.kept(t); kept > 0 != c.kept {
				t.Errorf("%d bytes are kept", kept)
			}
			away = false
			b.reports = nil
			if a := b.run(t, order); a.Result != state.ResultHandedOn || c.kept != (b.reports[0] > cutAt) {
				t.Errorf("%+v, it went on at %d", a, b.reports[0])
			}
		})
	}
}

// named returns a bench with an archive that the operator names.
func named(sum string) func(t *testing.T, shaken func(http.Handler) http.Handler) (*bench, state.Order) {
	return func(t *testing.T, shaken func(http.Handler) http.Handler) (*bench, state.Order) {
		b := newBench(t, "http://127.0.0.1:9")
		o := b.order(state.VerbApply, "v1")
		o.URL, o.SHA256 = serve(t, shaken(offered(payload, `"1"`)))+"/d/x.tar.gz?secret", sum
		return b, o
	}
}

package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// neither is the error of a file of no format.
const neither = "it is neither an archive (tar, plain or in gzip, zstd, xz or bzip2, or zip) nor a program (ELF or a script)"

// limits suffice for all valid archives of these tests.
var limits = Limits{Unpacked: 1 << 20, Entries: 100}

// entry is a tar entry; with zero values a regular file of mode 0644.
type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry { return entry{tar.Header{Name: name}, body} }

func special(name string, kind byte, link string) entry {
	return entry{tar.Header{Name: name, Typeflag: kind, Linkname: link}, ""}
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		h.Size = int64(len(e.body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func zst(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// rawHeader returns a tar header that archive/tar would refuse to write.
func rawHeader(name string, kind byte, size string, edit func(b []byte)) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x00")
	copy(b[108:], "0000000\x000000000\x00")
	copy(b[124:], size)
	copy(b[136:], "00000000000\x00")
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	if edit != nil {
		edit(b)
	}
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// pax returns an extended header with the given records, of kind 'x' or 'g'.
func pax(kind byte, records ...string) []byte {
	var body string
	for _, r := range records {
		n := len(r) + 3
		for len(fmt.Sprintf("%d %s\n", n, r)) != n {
			n++
		}
		body += fmt.Sprintf("%d %s\n", n, r)
	}
	return append(rawHeader("pax", kind, fmt.Sprintf("%011o\x00", len(body)), nil), pad(body)...)
}

func pad(body string) []byte {
	return append([]byte(body), make([]byte, (512-len(body)%512)%512)...)
}

var tarEnd = make([]byte, 1024)

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// names returns a function for Extract that maps entries to file names by want.
func names(want map[string]string) func(Entry) string {
	return func(e Entry) string { return want[e.Name] }
}

func section(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

func extract(t *testing.T, archive []byte, want map[string]string, lim Limits) (dir string, files []File, err error) {
	t.Helper()
	dir = t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	files, err = Extract(section(archive), root, names(want), lim)
	return dir, files, err
}

func mustBeEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("left behind: %s", e.Name())
	}
}

func digest(s string) string { sum := sha256.Sum256([]byte(s)); return hex.EncodeToString(sum[:]) }

func TestExtract(t *testing.T) {
	scalebox := []entry{
		special("./", tar.TypeDir, ""),
		file("./scaleboxd", "daemon"),
		file("./scaleboxd.service", "[Unit]"),
		special("./scripts/", tar.TypeDir, ""),
		file("./scripts/install.sh", "#!/bin/sh"),
		file("./empty", ""),
	}
	want := map[string]string{"scaleboxd": "0", "scaleboxd.service": "1", "empty": "2"}
	plain := makeTar(t, scalebox...)
	for _, tt := range []struct {
		name    string
		archive []byte
	}{
		{"gzip", gz(plain)},
		{"zstd", zst(t, plain)},
		{"padded to a record", gz(append(plain, make([]byte, 10240)...))},
		{"two zstd frames", join(zst(t, plain[:700]), zst(t, plain[700:]))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, files, err := extract(t, tt.archive, want, limits)
			if err != nil {
				t.Fatal(err)
			}
			expect := []File{{"scaleboxd", digest("daemon"), 6}, {"scaleboxd.service", digest("[Unit]"), 6}, {"empty", digest(""), 0}}
			if !reflect.DeepEqual(files, expect) {
				t.Errorf("got %+v, want %+v", files, expect)
			}
			for out, body := range map[string]string{"0": "daemon", "1": "[Unit]", "2": ""} {
				if got, err := os.ReadFile(filepath.Join(dir, out)); err != nil || string(got) != body {
					t.Errorf("%s: %q, %v", out, got, err)
				}
			}
			if all, err := os.ReadDir(dir); len(all) != 3 {
				t.Errorf("%d files, %v", len(all), err)
			}
			listed, err := List(section(tt.archive), limits)
			if err != nil || len(listed) != 4 || listed[2] != (File{"scripts/install.sh", digest("#!/bin/sh"), 9}) {
				t.Errorf("List: %+v, %v", listed, err)
			}
		})
	}
}

// TestExtractIgnores checks that mode, owner, times and attributes of the archive do not
// reach the disk, and that names that differ in case are two files.
func TestExtractIgnores(t *testing.T) {
	archive := gz(makeTar(t,
		entry{tar.Header{Name: "bin", Mode: 0o6755, Uid: 1234, Gid: 1234, Uname: "games", PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02", "mtime": "12345.6"}}, "small"},
		file("Bin", "LARGE"),
	))
	dir, _, err := extract(t, archive, map[string]string{"bin": "0", "Bin": "1"}, limits)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "0"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for name, body := range map[string]string{"0": "small", "1": "LARGE"} {
		if b, _ := os.ReadFile(filepath.Join(dir, name)); string(b) != body {
			t.Errorf("%s holds %q", name, b)
		}
	}
}

// TestExtractOntoExisting checks that an existing file is neither changed nor removed.
func TestExtractOntoExisting(t *testing.T) {
	for name, plant := range map[string]func(path, outside string) error{
		"file":     func(path, _ string) error { return os.WriteFile(path, []byte("theirs"), 0o600) },
		"symlink":  func(path, outside string) error { return os.Symlink(outside, path) },
		"hardlink": func(path, outside string) error { return os.Link(outside, path) },
	} {
		outside := filepath.Join(t.TempDir(), "outside")
		if err := os.WriteFile(outside, []byte("theirs"), 0o600); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := plant(filepath.Join(dir, "1"), outside); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_, err = Extract(section(gz(makeTar(t, file("a", "1"), file("b", "2")))), root, names(map[string]string{"a": "0", "b": "1"}), limits)
		if err == nil || err.Error() != `entry "b": openat 1: file exists` {
			t.Errorf("%s: got %v", name, err)
		}
		if b, _ := os.ReadFile(filepath.Join(dir, "1")); string(b) != "theirs" {
			t.Errorf("%s: now holds %q", name, b)
		}
		if all, _ := os.ReadDir(dir); len(all) != 1 {
			t.Errorf("%s: %d files left", name, len(all))
		}
	}
}

func TestExtractRefuses(t *testing.T) {
	testkit.Slow(t)
	good := file("bin", "good")
	tarOf := func(e ...entry) []byte { return gz(makeTar(t, append([]entry{good}, e...)...)) }
	// raw returns an archive of a valid file and then the given bytes.
	raw := func(parts ...[]byte) []byte {
		head := makeTar(t, good)
		return gz(join(head[:len(head)-1024], join(parts...), tarEnd))
	}
	const notPlain = "its name is not a plain relative path"
	empty := gz(nil)
	whole := tarOf()

	for _, tt := range []struct {
		name    string
		archive []byte
		err     string
	}{
		{"dot-dot", tarOf(file("../../x", "")), `entry "../../x": ` + notPlain},
		{"absolute", tarOf(file("/abs", "")), `entry "/abs": ` + notPlain},
		{"dot-dot inside", tarOf(file("a/../../b", "")), `entry "a/../../b": ` + notPlain},
		{"dot-dot behind ./", tarOf(file("./../x", "")), `entry "./../x": ` + notPlain},
		{"absolute behind ./", tarOf(file(".//etc/x", "")), `entry ".//etc/x": ` + notPlain},
		{"directory with dot-dot", tarOf(special("../x/", tar.TypeDir, "")), `entry "../x": ` + notPlain},
		{"empty name", raw(rawHeader("", '0', "00000000000\x00", nil)), `entry "": ` + notPlain},
		{"same name twice", tarOf(file("bin", "evil")), `entry "bin" is there twice`},
		{"same name twice, one with ./", tarOf(file("./bin", "evil")), `entry "bin" is there twice`},
		{"newline", tarOf(file("a\nb", "")), `entry "a\nb": its name contains control characters`},
		{"escape", tarOf(file("a\x1b[2Jb", "")), `entry "a\x1b[2Jb": its name contains control characters`},
		{"PAX sparse map of a gigabyte", raw(pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=s", "GNU.sparse.realsize=1048576"),
			rawHeader("s", '0', "10000000000\x00", nil), pad("99999999\n"+strings.Repeat("1\n", 1<<20))), "archive/tar: sparse map too long"},
		{"directory with content", raw(rawHeader("d/", '5', "00000001000\x00", nil), pad("x")), `entry "d/": it is a directory with content`},
		{"old-style directory with content", raw(rawHeader("d/", 0, "00000001000\x00", nil), pad("x")), `entry "d/": it is a directory with content`},
		{"file with a directory's name", raw(rawHeader("d/", '0', "00000001000\x00", nil), pad("x")), `entry "d/": ` + notPlain},
		{"PAX size against header size", raw(pax('x', "size=512"), rawHeader("s", '0', "00000000000\x00", nil), rawHeader("bin", '0', "00000000000\x00", nil)),
			`entry "s": it has a PAX size record`},
		{"PAX global header", raw(pax('g', "size=512")), `entry "pax": it has a PAX size record`},
		{"negative size", raw(rawHeader("s", '0', "-0000000001\x00", nil)), "archive/tar: invalid tar header"},
		{"bad header checksum", gz(join(bytes.Repeat([]byte("x"), 512), tarEnd)), "archive/tar: invalid tar header"},
		{"header says 10 GB", raw(rawHeader("z", '0', "120000000000", nil)), "the archive unpacks to more than 1048576 bytes"},
		{"zeros beyond the limit", tarOf(file("z", strings.Repeat("\x00", 1<<20))), "the archive unpacks to more than 1048576 bytes"},
		{"zeros after the end", gz(append(makeTar(t, good), make([]byte, 4<<20)...)), "the archive unpacks to more than 1048576 bytes"},
		{"too many entries", tarOf(func() (e []entry) {
			for i := range 100 {
				e = append(e, file(fmt.Sprint(i), ""))
			}
			return e
		}()...), "the archive has more than 100 entries"},
		{"too many directories", tarOf(func() (e []entry) {
			for range 100 {
				e = append(e, special("./", tar.TypeDir, ""))
			}
			return e
		}()...), "the archive has more than 100 entries"},
		{"zstd bomb by its window", append([]byte("\x28\xb5\x2f\xfd\x00\xa0"), zst(t, makeTar(t, good))[6:]...), "window size exceeded"},
		{"zstd bomb by its content size", append([]byte("\x28\xb5\x2f\xfd\xe0\x00\x00\x00\x00\x01\x00\x00\x00"), zst(t, makeTar(t, good))[6:]...), "decompressed size exceeds configured limit"},
		{"zstd bomb", zst(t, make([]byte, 64<<20)), "the archive unpacks to more than 1048576 bytes"},
		{"zstd bomb in a file", zst(t, makeTar(t, file("z", strings.Repeat("\x00", 64<<20)))), "the archive unpacks to more than 1048576 bytes"},
		{"two gzip members, each a tar", join(whole, whole), "there is something after the end of the tar archive"},
		{"a million empty gzip members", bytes.Repeat(empty, 1_000_000), "the archive is cut short"},
		{"bytes after the end of tar", gz(append(makeTar(t, good), 'x')), "there is something after the end of the tar archive"},
		{"a second tar after the end of tar", gz(join(makeTar(t, good), makeTar(t, good))), "there is something after the end of the tar archive"},
		{"bytes after the end of gzip", append(bytes.Clone(whole), "garbage of ten bytes or more"...), errNotEnd.Error()},
		{"bytes after the end of zstd", append(zst(t, makeTar(t, good)), "garbage"...), "invalid input: magic number mismatch"},
		{"no end of tar", gz(makeTar(t, good)[:1024]), "the archive is cut short"},
		{"half an end of tar", gz(makeTar(t, good)[:1536]), "the archive is cut short"},
		{"zeros at the end of a file, no end of tar", gz(makeTar(t, file("bin", strings.Repeat("\x00", 2048)))[:512+2048]), "the archive is cut short"},
		{"a million empty zstd frames", bytes.Repeat(zst(t, nil), 1_000_000), "the archive is cut short"},
		{"bad gzip checksum", func() []byte { b := bytes.Clone(whole); b[len(b)-5] ^= 1; return b }(), "gzip: invalid checksum"},
		{"bad gzip data", func() []byte { b := bytes.Clone(whole); copy(b[10:], "\xff\xff\xff"); return b }(), "flate: corrupt input before offset 1"},
		{"empty", nil, neither},
		{"HTML", []byte("<html>404</html>"), neither},
		{"zstd skippable frame first", append([]byte("\x50\x2a\x4d\x18\x00\x00\x00\x00"), zst(t, makeTar(t, good))...), neither},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, files, err := extract(t, tt.archive, map[string]string{"bin": "0"}, limits)
			if err == nil {
				t.Fatalf("accepted: %+v", files)
			}
			if err.Error() != tt.err {
				t.Errorf("got  %s\nwant %s", err, tt.err)
			}
			mustBeEmpty(t, dir)
			if _, listErr := List(section(tt.archive), limits); listErr == nil || listErr.Error() != tt.err {
				t.Errorf("List: %v", listErr)
			}
		})
	}
}

func TestExtractTruncated(t *testing.T) {
	plain := makeTar(t, file("bin", "good"), file("other", strings.Repeat("text ", 200)))
	for name, archive := range map[string][]byte{"gzip": gz(plain), "zstd": zst(t, plain)} {
		t.Run(name, func(t *testing.T) {
			for n := range archive {
				dir, _, err := extract(t, archive[:n], map[string]string{"bin": "0"}, limits)
				want := "the archive is cut short"
				if n < 2 || name == "zstd" && n < 4 {
					want = neither
				}
				if err == nil || err.Error() != want {
					t.Errorf("%d of %d bytes: got %v, want %s", n, len(archive), err, want)
				}
				mustBeEmpty(t, dir)
			}
		})
	}
}

// TestExtractReadError checks that a read error is not reported as a short archive.
func TestExtractReadError(t *testing.T) {
	broken := errors.New("input/output error")
	archive := gz(makeTar(t, file("bin", strings.Repeat("good", 100))))
	for n := range archive {
		r := io.NewSectionReader(brokenAt{bytes.NewReader(archive), int64(n), broken}, 0, int64(len(archive)))
		if _, err := List(r, limits); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

// brokenAt is a file that cannot be read from the given offset on.
type brokenAt struct {
	io.ReaderAt
	at  int64
	err error
}

func (b brokenAt) ReadAt(p []byte, off int64) (int, error) {
	if off >= b.at {
		return 0, b.err
	}
	n, err := b.ReaderAt.ReadAt(p[:min(int64(len(p)), b.at-off)], off)
	if err == nil && n < len(p) {
		err = b.err
	}
	return n, err
}

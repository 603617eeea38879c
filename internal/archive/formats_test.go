package archive

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// squeeze compresses b as a program of the system does. Go has no package for it.
func squeeze(t testing.TB, b []byte, program string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(program, append(args, "-c")...)
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return out
}

func xzip(t testing.TB, b []byte) []byte { return squeeze(t, b, "xz", "-T1") }
func bz2(t testing.TB, b []byte) []byte  { return squeeze(t, b, "bzip2") }

// withDictionary returns the xz file b with another dictionary size in its block header.
func withDictionary(b []byte, size byte) []byte {
	b = bytes.Clone(b)
	b[16] = size // after 12 bytes of stream header: size, flags, filter ID, length, and this
	binary.LittleEndian.PutUint32(b[20:], crc32.ChecksumIEEE(b[12:20]))
	return b
}

// zipEntryOf is an entry of a zip archive that makeZip writes.
type zipEntryOf struct {
	zip.FileHeader
	body string
	raw  bool // the header says all about the body, which is not compressed
}

func zipFile(name, body string) zipEntryOf {
	return zipEntryOf{FileHeader: zip.FileHeader{Name: name, Method: zip.Deflate}, body: body}
}

func zipStored(name, body string) zipEntryOf {
	h := zip.FileHeader{Name: name, CRC32: crc32.ChecksumIEEE([]byte(body)),
		CompressedSize64: uint64(len(body)), UncompressedSize64: uint64(len(body))}
	return zipEntryOf{h, body, true}
}

func zipMode(name string, mode os.FileMode, body string) zipEntryOf {
	e := zipStored(name, body)
	e.SetMode(mode)
	return e
}

func makeZip(t testing.TB, entries ...zipEntryOf) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, e := range entries {
		h := e.FileHeader
		create := z.CreateHeader
		if e.raw {
			create = z.CreateRaw
		}
		w, err := create(&h)
		if err == nil {
			_, err = w.Write([]byte(e.body))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// edit returns b with the n-th occurrence of old, from 0, replaced.
func edit(t testing.TB, b []byte, n int, old, new string) []byte {
	t.Helper()
	at := 0
	for ; n >= 0; n-- {
		i := bytes.Index(b[at:], []byte(old))
		if i < 0 {
			t.Fatalf("there is no %q", old)
		}
		at += i + 1
	}
	return join(b[:at-1], []byte(new), b[at-1+len(old):])
}

func long(n uint32) string { return string(binary.LittleEndian.AppendUint32(nil, n)) }

// TestFormats: one row for each format, with the words that refuse what is none.
func TestFormats(t *testing.T) {
	testkit.Slow(t)
	const body = "\x7fELF program"
	plain := makeTar(t, special("./", tar.TypeDir, ""), file("./app-1/bin", body), file("app-1/README", "text"))
	program, script := []byte(body), []byte("#!/bin/sh\n")
	tree := t.TempDir()
	if err := os.MkdirAll(filepath.Join(tree, "app-1"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"bin": body, "README": "text"} {
		if err := os.WriteFile(filepath.Join(tree, "app-1", name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	infoZip := exec.Command("sh", "-ec", "zip -qr x.zip app-1 && zip -fzqr y.zip app-1")
	infoZip.Dir = tree
	if out, err := infoZip.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(tree, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	entry := map[string]string{"app-1/bin": "0"}
	single := map[string]string{Single: "0"}
	var rows []testkit.Row
	for _, row := range []struct {
		name    string
		archive []byte
		want    map[string]string
		err     string
		body    string
	}{
		{"tar", plain, entry, "", body},
		{"tar.gz", gz(plain), entry, "", body},
		{"tar.gz, two members", join(gz(plain[:700]), gz(plain[700:])), entry, "", body},
		{"tar.gz, an empty member last", join(gz(plain), gz(nil)), entry, "", body},
		{"tar.zst", zst(t, plain), entry, "", body},
		{"tar.xz", xzip(t, plain), entry, "", body},
		{"tar.xz, two streams", join(xzip(t, plain[:700]), xzip(t, plain[700:])), entry, "", body},
		{"tar.xz, padded", join(xzip(t, plain), make([]byte, 8)), entry, "", body},
		{"tar.xz, sha256", squeeze(t, plain, "xz", "-T1", "-C", "sha256"), entry, "", body},
		{"tar.xz, x86 filter", squeeze(t, plain, "xz", "-T1", "--x86", "--lzma2"), entry, "", body},
		{"tar.xz, xz -9", squeeze(t, plain, "xz", "-T1", "-9"), entry, "", body},
		{"tar.xz, 128 MiB", withDictionary(xzip(t, plain), 30), entry, "", body},
		{"tar.xz, 192 MiB", withDictionary(xzip(t, plain), 31), entry, "its xz dictionary is larger than 128 MiB", ""},
		{"tar.xz, 4 GiB", withDictionary(xzip(t, plain), 40), entry, "its xz dictionary is larger than 128 MiB", ""},
		{"tar.xz, 4 GiB in the second stream", join(xzip(t, plain[:700]), withDictionary(xzip(t, plain[700:]), 40)), entry, "its xz dictionary is larger than 128 MiB", ""},
		{"tar.xz, garbage after", append(xzip(t, plain), "garbage, longer than a header"...), entry, errNotEnd.Error(), ""},
		{"tar.xz, cut", xzip(t, plain)[:100], entry, "the archive is cut short", ""},
		{"tar.lzma", squeeze(t, plain, "xz", "--format=lzma"), entry, neither, ""},
		{"tar.bz2", bz2(t, plain), entry, "", body},
		{"tar.bz2, two streams", join(bz2(t, plain[:700]), bz2(t, plain[700:])), entry, "", body},
		{"tar.bz2, garbage after", append(bz2(t, plain), "garbage"...), entry, "bzip2 data invalid: bad magic value in continuation file", ""},
		{"tar.bz2, cut", bz2(t, plain)[:100], entry, "the archive is cut short", ""},
		{"zip", makeZip(t, zipFile("app-1/bin", body), zipFile("app-1/README", "text")), entry, "", body},
		{"zip, stored", makeZip(t, zipStored("app-1/bin", body)), entry, "", body},
		{"zip of Info-ZIP", read("x.zip"), entry, "", body},
		{"zip64 of Info-ZIP", read("y.zip"), entry, "", body},
		{"a program", program, single, "", body},
		{"a script", script, single, "", string(script)},
		{"a program in gzip", gz(program), single, "", body},
		{"a program in two gzip members", join(gz(program[:7]), gz(program[7:])), single, "", body},
		{"a program in zstd", zst(t, program), single, "", body},
		{"a program in xz", xzip(t, program), single, "", body},
		{"a program in bzip2", bz2(t, program), single, "", body},
		{"a program in gzip, cut", gz(program)[:20], single, "the archive is cut short", ""},
		{"a program in gzip, garbage after", append(gz(program), "0123456789 garbage"...), single, `entry ".": ` + errNotEnd.Error(), ""},
		{"a program that is too large", append(program, make([]byte, 1<<20)...), single, `entry ".": the archive unpacks to more than 1048576 bytes`, ""},
		{"a bomb", gz(append(program, make([]byte, 64<<20)...)), single, `entry ".": the archive unpacks to more than 1048576 bytes`, ""},
		{"a bomb that is skipped", xzip(t, append(program, make([]byte, 64<<20)...)), nil, "the archive unpacks to more than 1048576 bytes", ""},
		{"text in gzip", gz([]byte("text")), single, "the archive is cut short", ""},
		{"a long text in gzip", gz(bytes.Repeat([]byte("text "), 200)), single, "archive/tar: invalid tar header", ""},
		{"two compressions", gz(gz(plain)), entry, "the archive is cut short", ""},
		{"7z", []byte("7z\xbc\xaf\x27\x1c and more"), entry, neither, ""},
		{"rar", []byte("Rar!\x1a\x07\x01\x00 and more"), entry, neither, ""},
		{"deb", []byte("!<arch>\ndebian-binary"), entry, neither, ""},
	} {
		rows = append(rows, testkit.Row{What: row.name, Refused: row.err})
		t.Run(row.name, func(t *testing.T) {
			dir, files, err := extract(t, row.archive, row.want, limits)
			if row.err != "" {
				if err == nil || err.Error() != row.err {
					t.Errorf("got  %v\nwant %s", err, row.err)
				}
				mustBeEmpty(t, dir)
				return
			}
			got, _ := os.ReadFile(filepath.Join(dir, "0"))
			if err != nil || string(got) != row.body || len(files) != 1 || files[0].SHA256 != digest(row.body) {
				t.Errorf("got %+v, %q, %v", files, got, err)
			}
			listed, err := List(section(row.archive), limits)
			if err != nil || !slices.Contains(listed, files[0]) {
				t.Errorf("List: %+v, %v", listed, err)
			}
		})
	}
	testkit.Accepted(t, "Archives and programs", rows)
}

// TestKinds: each kind of entry is skipped unless it is wanted, or a wanted one is below it.
func TestKinds(t *testing.T) {
	raw := func(parts ...[]byte) []byte {
		head := makeTar(t, file("bin", "good"))
		return gz(join(head[:len(head)-1024], join(parts...), tarEnd))
	}
	tarOf := func(e ...entry) []byte { return gz(makeTar(t, append([]entry{file("bin", "good")}, e...)...)) }
	zipOf := func(e ...zipEntryOf) []byte { return makeZip(t, append([]zipEntryOf{zipFile("bin", "good")}, e...)...) }
	longName := strings.Repeat("n", 1100)
	encrypted := zipStored("x", "body")
	encrypted.Flags = 1
	bzipped := zipStored("x", "body")
	bzipped.Method = 12
	for _, row := range []struct {
		name    string
		archive []byte
		entry   string // that is skipped or wanted
		err     string // if it is wanted
	}{
		{"tar: symlink", tarOf(special("x", tar.TypeSymlink, "/etc")), "x", `entry "x": it is a link`},
		{"tar: hard link", tarOf(special("x", tar.TypeLink, "bin")), "x", `entry "x": it is a link`},
		{"tar: block device", tarOf(special("x", tar.TypeBlock, "")), "x", `entry "x": it is a device or FIFO`},
		{"tar: character device", tarOf(special("x", tar.TypeChar, "")), "x", `entry "x": it is a device or FIFO`},
		{"tar: FIFO", tarOf(special("x", tar.TypeFifo, "")), "x", `entry "x": it is a device or FIFO`},
		{"tar: contiguous file", raw(rawHeader("x", '7', "00000000001\x00", nil), pad("x")), "x", `entry "x": it is of an unknown kind ('7')`},
		{"tar: unknown kind", raw(rawHeader("x", 'Z', "00000000001\x00", nil), pad("x")), "x", `entry "x": it is of an unknown kind ('Z')`},
		{"tar: GNU sparse", raw(rawHeader("x", 'S', "00000000000\x00", func(b []byte) {
			copy(b[257:], "ustar  \x00")
			copy(b[483:], "00000001000\x00")
		})), "x", `entry "x": it is a sparse file`},
		{"tar: PAX sparse", raw(pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=x", "GNU.sparse.realsize=65536"),
			rawHeader("x", '0', "00000001000\x00", nil), pad("0\n"+strings.Repeat("\x00", 510))), "x", `entry "x": it is a sparse file`},
		{"tar: option as a name", tarOf(file("-rf", "")), "-rf", `entry "-rf": its name begins with -`},
		{"tar: option in a directory", tarOf(file("d/-rf", "")), "d/-rf", `entry "d/-rf": its name begins with -`},
		{"tar: not UTF-8", tarOf(entry{tar.Header{Name: "a\xff", Format: tar.FormatGNU}, ""}), "a\xff", `entry "a\xff": its name is not UTF-8`},
		{"tar: long name", tarOf(file(longName, "")), longName, `entry "` + longName[:80] + `": its name is longer than 1024 bytes`},
		{"tar: below a link", tarOf(special("d", tar.TypeSymlink, "/etc"), file("d/x", "")), "d/x", `entry "d/x" leads through "d": it is a link`},
		{"tar: below a later link", tarOf(file("d/x", ""), special("d", tar.TypeSymlink, "/etc")), "d/x", `entry "d/x" leads through "d": it is a link`},
		{"tar: far below a file", tarOf(file("d", ""), file("d/e/f/x", "")), "d/e/f/x", `entry "d/e/f/x" leads through "d": it is a file`},
		{"zip: symlink", zipOf(zipMode("x", os.ModeSymlink|0o777, "/etc")), "x", `entry "x": it is a link`},
		{"zip: device", zipOf(zipMode("x", os.ModeDevice|0o600, "")), "x", `entry "x": it is a device or FIFO`},
		{"zip: FIFO", zipOf(zipMode("x", os.ModeNamedPipe|0o600, "")), "x", `entry "x": it is a device or FIFO`},
		{"zip: encrypted", zipOf(encrypted), "x", `entry "x": it is encrypted`},
		{"zip: other compression", zipOf(bzipped), "x", `entry "x": it is compressed by method 12 of zip; only 0 (stored) and 8 (deflated) are read`},
		{"zip: option as a name", zipOf(zipFile("-rf", "")), "-rf", `entry "-rf": its name begins with -`},
		{"zip: below a link", zipOf(zipMode("d", os.ModeSymlink|0o777, "/etc"), zipFile("d/x", "")), "d/x", `entry "d/x" leads through "d": it is a link`},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir, _, err := extract(t, row.archive, map[string]string{"bin": "0"}, limits)
			if got, _ := os.ReadFile(filepath.Join(dir, "0")); err != nil || string(got) != "good" {
				t.Errorf("skipped: got %q, %v", got, err)
			}
			listed, err := List(section(row.archive), limits)
			if through := strings.Contains(row.err, "leads through"); through && (err == nil || err.Error() != row.err) || !through && (err != nil || listed[0].Name != "bin") {
				t.Errorf("listed: %+v, %v", listed, err)
			}
			dir, _, err = extract(t, row.archive, map[string]string{"bin": "0", row.entry: "1"}, limits)
			if err == nil || err.Error() != row.err {
				t.Errorf("wanted: got  %v\nwant %s", err, row.err)
			}
			mustBeEmpty(t, dir)
		})
	}
	for name, archive := range map[string][]byte{
		"git's global header": raw(pax('g', "comment=abc")),
		"it comes first":      gz(join(pax('g', "comment=0123456789abcdef"), makeTar(t, file("bin", "good")))),
		"directories in zip":  makeZip(t, zipFile("d/", ""), zipFile("bin", "good")),
		"zip, mode of a directory": func() []byte {
			return zipOf(zipMode("d/", os.ModeDir|0o755, ""))
		}(),
	} {
		dir, files, err := extract(t, archive, map[string]string{"bin": "0", "d": "1", "pax": "2", "pax_global_header": "3"}, limits)
		if err != nil || len(files) != 1 {
			t.Errorf("%s: %+v, %v in %s", name, files, err, dir)
		}
	}
}

// TestHostile: archives that are refused even if nothing is wanted of what is wrong.
func TestHostile(t *testing.T) {
	testkit.Slow(t)
	const notPlain = "its name is not a plain relative path"
	good := zipStored("bin", "good")
	zipOf := func(e ...zipEntryOf) []byte { return makeZip(t, append([]zipEntryOf{good}, e...)...) }
	two := zipOf(zipStored("other", "text"))
	// sizes are the two sizes of an entry in its headers.
	sizes := long(4) + long(4)
	tooMany := make([]zipEntryOf, 100)
	for i := range tooMany {
		tooMany[i] = zipStored(fmt.Sprint(i), "")
	}
	bomb := zipFile("z", strings.Repeat("\x00", 64<<20))
	lie := func() []byte { // the directory and the header say 4 bytes
		whole := makeZip(t, bomb)
		z, err := zip.NewReader(bytes.NewReader(whole), int64(len(whole)))
		if err != nil {
			t.Fatal(err)
		}
		r, err := z.File[0].OpenRaw()
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		if _, err := body.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		return makeZip(t, zipEntryOf{zip.FileHeader{Name: "bin", Method: zip.Deflate, CompressedSize64: uint64(body.Len()), UncompressedSize64: 4}, body.String(), true})
	}()
	huge := zipStored("z", "")
	huge.UncompressedSize64 = 1 << 63
	zip64 := zipStored("z", "")
	zip64.UncompressedSize64 = 1 << 33
	headless := two[bytes.Index(two, []byte(zipDirectory)):]
	for _, row := range []struct {
		name    string
		archive []byte
		err     string
	}{
		{"dot-dot", zipOf(zipFile("../../x", "")), `entry "../../x": ` + notPlain},
		{"dot-dot inside", zipOf(zipFile("a/../../x", "")), `entry "a/../../x": ` + notPlain},
		{"absolute", zipOf(zipFile("/etc/x", "")), `entry "/etc/x": ` + notPlain},
		{"directory with dot-dot", zipOf(zipFile("../d/", "")), `entry "../d": ` + notPlain},
		{"empty name", zipOf(zipFile("", "")), `entry "": ` + notPlain},
		{"newline", zipOf(zipFile("a\nb", "")), `entry "a\nb": its name contains control characters`},
		{"NUL", zipOf(zipFile("bin\x00.txt", "")), `entry "bin\x00.txt": its name contains control characters`},
		{"same name twice", zipOf(zipFile("bin", "evil")), `entry "bin" is there twice`},
		{"same name twice, one with ./", zipOf(zipFile("./bin", "evil")), `entry "bin" is there twice`},
		{"directory with content", zipOf(zipMode("d", os.ModeDir|0o755, "text")), `entry "d": it is a directory with content`},
		{"sizes differ before the entry", edit(t, two, 0, sizes, long(4)+long(5)), `entry "bin": its two headers in the zip archive differ`},
		{"sizes differ in the directory", edit(t, two, 2, sizes, long(4)+long(5)), `entry "bin": its two headers in the zip archive differ`},
		{"compressed sizes differ", edit(t, two, 2, sizes, long(3)+long(4)), `entry "bin": its two headers in the zip archive differ`},
		{"names differ", edit(t, two, 0, "bin", "sbi"), `entry "bin": its two headers in the zip archive differ`},
		{"methods differ", edit(t, two, 0, zipLocal+"\x00\x00\x00\x00\x00\x00", zipLocal+"\x00\x00\x00\x00\x08\x00"), `entry "bin": its two headers in the zip archive differ`},
		{"overlapping entries", overlapping(t), `entry "other": it overlaps another, or there is something before it`},
		{"an entry that the directory lacks", hidden(t), `entry "other": it overlaps another, or there is something before it`},
		{"something before the directory", moved(t, two), "there is something between the last entry and the directory of the zip archive"},
		{"something after the end", append(bytes.Clone(two), "garbage"...), "there is something after the end of the zip archive"},
		{"cut short", two[:len(two)-1], errZip.Error()},
		{"cut between two entries", two[:50], errZip.Error()},
		{"a directory alone", headless, neither},
		{"empty zip", makeZip(t), neither},
		{"bad checksum", edit(t, two, 0, "good", "evil"), `entry "bin": zip: checksum error`},
		{"bomb", zipOf(bomb), "the archive unpacks to more than 1048576 bytes"},
		{"bomb with a false size", lie, errZip.Error()},
		{"size of 8 EiB", zipOf(huge), "the archive unpacks to more than 1048576 bytes"},
		{"zip64 of 8 GiB", zipOf(zip64), "the archive unpacks to more than 1048576 bytes"},
		{"too many entries", zipOf(tooMany...), "the archive has more than 100 entries"},
		{"far too many entries", manyEntries(t, 100_000), "the archive has more than 100 entries"},
		{"tar: long names together", gz(makeTar(t, file(strings.Repeat("a", 40_000), ""), file(strings.Repeat("b", 40_000), ""), file(strings.Repeat("c", 40_000), ""))),
			`the names in the archive have more than 102400 bytes`},
		{"tar: link with content", gz(join(rawHeader("l", '1', "00000001000\x00", nil), pad("x"), tarEnd)), `entry "l": it is a link with content`},
		{"tar: global header with path", gz(join(pax('g', "path=bin"), makeTar(t, file("x", "")))), `entry "bin": it is a global header with path`},
		{"tar: same link twice", gz(makeTar(t, special("l", tar.TypeSymlink, "a"), special("l", tar.TypeSymlink, "b"))), `entry "l" is there twice`},
		{"tar: file and link of one name", gz(makeTar(t, file("l", ""), special("l", tar.TypeSymlink, "b"))), `entry "l" is there twice`},
		{"tar: sparse file of a TiB", gz(join(pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=x", "GNU.sparse.realsize=1099511627776"),
			rawHeader("x", '0', "00000001000\x00", nil), pad("0\n"+strings.Repeat("\x00", 510)), tarEnd)), "the archive unpacks to more than 1048576 bytes"},
		{"tar.xz: bomb", xzip(t, make([]byte, 64<<20)), "the archive unpacks to more than 1048576 bytes"},
		{"tar.bz2: bomb", bz2(t, make([]byte, 64<<20)), "the archive unpacks to more than 1048576 bytes"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir, _, err := extract(t, row.archive, map[string]string{"bin": "0"}, limits)
			if row.err == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || err.Error() != row.err {
				t.Errorf("got  %v\nwant %s", err, row.err)
			}
			mustBeEmpty(t, dir)
		})
	}
}

// TestNamesTakeLittleMemory: a name that is kept keeps nothing else of its entry in memory.
func TestNamesTakeLittleMemory(t *testing.T) {
	const entries, each = 64, 1_000_000
	var b bytes.Buffer
	for i := range entries {
		b.Write(pax('x', fmt.Sprintf("path=%d", i), "comment="+strings.Repeat("c", each)))
		b.Write(rawHeader("x", '0', "00000000000\x00", nil))
	}
	b.Write(tarEnd)
	var before, at runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	seen := 0
	_, err := Extract(section(b.Bytes()), nil, func(Entry) string {
		if seen++; seen == entries {
			runtime.GC()
			runtime.ReadMemStats(&at)
		}
		return ""
	}, Limits{Unpacked: 1 << 30, Entries: entries})
	if err != nil || seen != entries {
		t.Fatalf("%d entries, %v", seen, err)
	}
	if took := int64(at.HeapAlloc) - int64(before.HeapAlloc); took > 16*each {
		t.Errorf("%d entries take %d bytes", entries, took)
	}
}

// overlapping returns a zip archive with two entries whose contents are the same bytes, as
// in the bombs that are small and unpack to petabytes.
func overlapping(t testing.TB) []byte {
	b := makeZip(t, zipStored("bin", "good"), zipStored("other", "text"))
	at := bytes.LastIndex(b, []byte(zipDirectory))
	offset := at + 42 // of the second entry's header, in the directory
	return join(b[:offset], []byte(long(0)), b[offset+4:])
}

// moved returns the zip archive with something before its directory.
func moved(t testing.TB, b []byte) []byte {
	b = edit(t, b, 0, zipDirectory, "hidden"+zipDirectory)
	end := bytes.LastIndex(b, []byte(zipEnd))
	binary.LittleEndian.PutUint32(b[end+16:], uint32(bytes.Index(b, []byte(zipDirectory))))
	return b
}

// hidden returns a zip archive whose directory lacks the second of three entries.
func hidden(t testing.TB) []byte {
	b := makeZip(t, zipStored("bin", "good"), zipStored("evil", "code"), zipStored("other", "text"))
	first := bytes.Index(b, []byte(zipDirectory))
	second := first + 1 + bytes.Index(b[first+1:], []byte(zipDirectory))
	third := bytes.LastIndex(b, []byte(zipDirectory))
	end := bytes.LastIndex(b, []byte(zipEnd))
	tail := bytes.Clone(b[end:])
	binary.LittleEndian.PutUint16(tail[8:], 2)
	binary.LittleEndian.PutUint16(tail[10:], 2)
	binary.LittleEndian.PutUint32(tail[12:], uint32(second-first+end-third))
	return join(b[:second], b[third:end], tail)
}

// manyEntries returns a zip archive of n empty files.
func manyEntries(t testing.TB, n int) []byte {
	entries := make([]zipEntryOf, n)
	for i := range entries {
		entries[i] = zipStored(fmt.Sprint(i), "")
	}
	return makeZip(t, entries...)
}

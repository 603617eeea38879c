//go:build systemd

package systemtest

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// bomb is a small file that unpacks to a large one. Parts are repeated while it is served,
// so that neither the file nor what it unpacks to is ever stored here.
type bomb []part

type part struct {
	bytes []byte
	times int
}

func (b bomb) WriteTo(w io.Writer) (n int64, err error) {
	for _, p := range b {
		for range p.times {
			m, err := w.Write(p.bytes)
			if n += int64(m); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// single is a part that is there once.
func single(b ...[]byte) part { return part{bytes.Join(b, nil), 1} }

// entryHeader is the tar header of a file of this size, and of an entry of another kind.
func entryHeader(t *testing.T, h tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	h.Mode, h.Format = 0o755, tar.FormatGNU
	if err := tar.NewWriter(&b).WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// deflated returns head and, after it, n times block in deflate. There is no end: what reads
// on to it has already unpacked more than it should.
func deflated(t *testing.T, head, block []byte, n int) bomb {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	next := func(b []byte) []byte {
		out.Reset()
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		return bytes.Clone(out.Bytes())
	}
	begin := append(next(head), next(block)...)
	again := next(block)
	if !bytes.Equal(again, next(block)) {
		t.Fatal("the same block gives other bytes each time")
	}
	return bomb{single(begin), {again, n - 1}}
}

var gzipHeader = []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff")

func gzipBomb(t *testing.T, head, block []byte, n int) bomb {
	t.Helper()
	return append(bomb{single(gzipHeader)}, deflated(t, head, block, n)...)
}

// zstdFrame begins a zstd frame with a window of 1<<log bytes (RFC 8878).
func zstdFrame(log int) []byte {
	return []byte{0x28, 0xb5, 0x2f, 0xfd, 0, byte(log-10) << 3}
}

const zstdBlock = 128 << 10 // the largest block

// zstdRaw is a block of these bytes, zstdRun one of the largest size with one byte only.
func zstdRaw(b []byte) []byte {
	h := uint32(len(b)) << 3
	return append([]byte{byte(h), byte(h >> 8), byte(h >> 16)}, b...)
}

func zstdRun(b byte) []byte {
	const h = zstdBlock<<3 | 1<<1
	return []byte{byte(h & 0xff), byte(h >> 8 & 0xff), byte(h >> 16), b}
}

// zstdBomb has head, and then this many bytes of zeros.
func zstdBomb(log int, head []byte, zeros int64) bomb {
	return bomb{single(zstdFrame(log), zstdRaw(head)), {zstdRun(0), int(zeros / zstdBlock)}}
}

// longNames has n entries with names of almost a mebibyte each, or, with pax, short names
// beside a record that is as long.
func longNames(t *testing.T, n int, pax bool) bomb {
	t.Helper()
	const size = 7*zstdBlock + 512
	kind, name, format, end := byte('L'), "x", "%d-", "\x00"
	if pax {
		kind, format, end = 'x', fmt.Sprintf("13 path=%%04d\n%d comment=", size-13), "\n"
	}
	special := entryHeader(t, tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size})
	special[156] = kind
	special = withChecksum(special)
	file := entryHeader(t, tar.Header{Typeflag: tar.TypeReg, Name: name})
	b := bomb{single(zstdFrame(20))}
	for i := range n {
		first := fmt.Sprintf(format, i)
		first += strings.Repeat("a", 512-len(end)-len(first))
		b = append(b, single(zstdRaw(special), zstdRaw([]byte(first))), part{zstdRun('a'), size / zstdBlock},
			single(zstdRaw([]byte(end)), zstdRaw(file)))
	}
	return append(b, single(zstdRaw(make([]byte, 1024)), []byte{1, 0, 0})) // the end of tar, and an empty last block
}

// withChecksum returns a tar header with the checksum of its other bytes.
func withChecksum(h []byte) []byte {
	copy(h[148:], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// compressBy returns b in the format of a program of this host.
func compressBy(t *testing.T, b []byte, program string, options ...string) []byte {
	t.Helper()
	cmd := exec.Command(program, append(options, "-c")...)
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return out
}

// zipOf returns a zip archive whose entry testd says that it has size bytes, and has body.
func zipOf(t *testing.T, size uint64, body bomb) []byte {
	t.Helper()
	var content, out bytes.Buffer
	if _, err := body.WriteTo(&content); err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(&out)
	w, err := z.CreateRaw(&zip.FileHeader{Name: "testd", Method: zip.Deflate, CompressedSize64: uint64(content.Len()), UncompressedSize64: size})
	if err == nil {
		_, err = content.WriteTo(w)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// manyInZip returns a zip archive with n empty files, as many as its directory may have bytes for.
func manyInZip(t *testing.T, n int) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for i := range n {
		if _, err := z.CreateHeader(&zip.FileHeader{Name: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// tarred returns a tar archive of these headers, with content where there is a size.
func tarred(t *testing.T, end bool, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, io.LimitReader(zeros{}, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if end {
		out.Write(make([]byte, 1024))
	}
	return out.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// repeatedJSON returns before, as often item as it fits into size bytes, and after.
func repeatedJSON(before, item, after string, size int) bomb {
	n := (size - len(before) - len(after)) / len(item)
	return bomb{single([]byte(before)), {[]byte(strings.Repeat(item, 1000)), n / 1000}, single([]byte(strings.TrimSuffix(item, ",") + after))}
}

//go:build systemd

package systemtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"
)

func gzipOf(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// archiveAttacks are the archives. The limits are those of a manifest that says that a
// release has 20 MB, or says nothing.
func (c *chain) archiveAttacks() (all []attack) {
	const mib, stated = 1 << 20, 20 << 20
	header := func(h tar.Header) []byte {
		h.Name = "testd"
		h.Typeflag = max(h.Typeflag, tar.TypeReg)
		return entryHeader(c.t, h)
	}
	whole := tarred(c.t, true, tar.Header{Name: "testd", Size: 1000})
	zero := make([]byte, mib)
	huge := header(tar.Header{Size: 10 << 30})
	script := append([]byte("#!/bin/sh\n"), make([]byte, 502)...)
	alone := strings.Replace(testdTarget, `from = "testd"`, `from = "."`, 1)
	dirs := bytes.Repeat(tarred(c.t, false, tar.Header{Name: "./", Typeflag: tar.TypeDir}), 2048)
	tooLarge := fmt.Sprintf("the archive unpacks to more than %d bytes", stated)
	const tooMany = "the archive has more than 10000 entries"

	add := func(name string, b bomb, unpacked int64, target string, most int64, says string) {
		version := fmt.Sprintf("1.1.%d", len(all))
		all = append(all, attack{name: "archive: " + name, do: func() { c.lay(version, version+".bin", b, unpacked) }, target: target, exit: 6,
			program: "verifier", most: most, says: []string{"refused " + version + ": cannot unpack " + version + ".bin: ", says}})
	}
	plain := func(name string, archive []byte, says string) { add(name, bomb{single(archive)}, 0, "", 0, says) }
	of := func(headers ...tar.Header) []byte {
		return gzipOf(c.t, tarred(c.t, true, append([]tar.Header{{Name: "testd", Size: 10}}, headers...)...))
	}
	sparse := func(records map[string]string) []byte {
		var out bytes.Buffer
		for _, k := range []string{"GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.name", "GNU.sparse.realsize", "size"} {
			if v, ok := records[k]; ok {
				n := len(k) + len(v) + 5
				fmt.Fprintf(&out, "%d %s=%s\n", n+len(fmt.Sprint(n))-2, k, v)
			}
		}
		h := entryHeader(c.t, tar.Header{Name: "pax", Typeflag: tar.TypeReg, Size: int64(out.Len())})
		h[156] = 'x'
		return append(withChecksum(h), append(out.Bytes(), make([]byte, 512-out.Len())...)...)
	}

	plain("absolute", of(tar.Header{Name: "/abs"}), `entry "/abs": its name is not a plain relative path`)
	plain("dot-dot inside", of(tar.Header{Name: "a/../../b"}), `entry "a/../../b": its name is not a plain relative path`)
	plain("newline in a name", of(tar.Header{Name: "a\nb"}), `its name contains control characters`)
	for _, kind := range []struct {
		name, says string
		flag       byte
	}{
		{"hard link", "it is a link", tar.TypeLink}, {"block device", "it is a device or FIFO", tar.TypeBlock},
		{"character device", "it is a device or FIFO", tar.TypeChar}, {"FIFO", "it is a device or FIFO", tar.TypeFifo},
	} {
		plain(kind.name, gzipOf(c.t, tarred(c.t, true, tar.Header{Name: "testd", Typeflag: kind.flag, Linkname: "/etc/passwd"})), `entry "testd": `+kind.says)
	}
	add("below a link to /etc", bomb{single(gzipOf(c.t, tarred(c.t, true, tar.Header{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, tar.Header{Name: "d/testd", Size: 9})))}, 0,
		strings.Replace(testdTarget, `from = "testd"`, `from = "d/testd"`, 1), 0, `entry "d/testd" leads through "d": it is a link`)
	plain("sparse file of a TiB", gzipOf(c.t, append(append(sparse(map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "testd", "GNU.sparse.realsize": "1099511627776"}),
		header(tar.Header{Size: 512})...), append([]byte("0\n"), make([]byte, 510+1024)...)...)), "the archive unpacks to more than ")
	plain("PAX size against header size", gzipOf(c.t, append(sparse(map[string]string{"size": "512"}), whole...)), `it has a PAX size record`)
	plain("two gzip members", append(gzipOf(c.t, whole), gzipOf(c.t, whole)...), "there is something after the end of the tar archive")
	plain("bytes after the end of gzip", append(gzipOf(c.t, whole), "garbage of ten bytes or more"...), "there is something after the end of the compressed stream")
	plain("cut short", gzipOf(c.t, whole)[:60], "the archive is cut short")
	add("a million empty gzip members", bomb{{gzipOf(c.t, nil), 1_000_000}}, 0, "", 0, "the archive is cut short")
	add("a million empty entries", gzipBomb(c.t, nil, dirs, 500), 0, "", 0, tooMany)
	plain("100,000 entries in a zip", manyInZip(c.t, 100_000), tooMany)
	add("300 names of a MiB", longNames(c.t, 300, false), 0, "", 0, "the names in the archive have more than")
	add("300 names beside a MiB", longNames(c.t, 300, true), 0, "", 0, "the archive has no testd")

	add("gzip, says 10 GB", gzipBomb(c.t, huge, zero, 10<<10), stated, "", 0, tooLarge)
	add("gzip, 10 GB after the end", gzipBomb(c.t, whole, zero, 10<<10), stated, "", 0, tooLarge)
	add("gzip, a program of 10 GB", gzipBomb(c.t, script, zero, 10<<10), stated, alone, 0, tooLarge)
	add("zip, a file of 10 GB that says 20 MB", bomb{single(zipOf(c.t, stated, deflated(c.t, zero[:0], zero, 10<<10)))}, stated, "", 0, "the zip archive is cut short or damaged")
	add("zstd, a program of 10 GB", zstdBomb(23, script, 10<<30), stated, alone, 0, tooLarge)
	add("zstd, a window of 256 MiB", zstdBomb(28, script, 10<<30), 0, alone, 0, "window size exceeded")
	// Who publishes such an archive has asked for that.
	add("zstd, the largest window", zstdBomb(27, script, 10<<30), 300*mib, alone, 136, fmt.Sprintf("the archive unpacks to more than %d bytes", 300*mib))
	block := compressBy(c.t, make([]byte, 32*mib), "xz", "-0")
	add("xz, a program of 10 GB", bomb{single(compressBy(c.t, script, "xz", "-0")), {block, 320}}, stated, alone, 0, tooLarge)
	block = compressBy(c.t, make([]byte, 32*mib), "bzip2", "-9")
	add("bzip2, a program of 10 GB", bomb{single(compressBy(c.t, script, "bzip2", "-9")), {block, 320}}, stated, alone, 0, tooLarge)
	return all
}

// oddArchive returns an archive of a good program with entries that are skipped, and with
// owner, mode and attributes that are ignored.
func oddArchive(t *testing.T, program []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	packed := gzip.NewWriter(&out)
	w := tar.NewWriter(packed)
	add := func(h tar.Header, body []byte) {
		h.Size = int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	add(tar.Header{Name: "testd", Typeflag: tar.TypeReg, Mode: 0o6757, Uid: 1234, Gid: 1234, Uname: "games",
		PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}, program)
	add(tar.Header{Name: "Testd", Typeflag: tar.TypeReg, Mode: 0o755}, []byte("another"))
	add(tar.Header{Name: "-rf", Typeflag: tar.TypeReg, Mode: 0o755}, nil)
	add(tar.Header{Name: strings.Repeat("n", 5000), Typeflag: tar.TypeReg, Mode: 0o644}, nil)
	add(tar.Header{Name: "etc", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, nil)
	add(tar.Header{Name: "passwd", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}, nil)
	add(tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, nil)
	add(tar.Header{Name: "fifo", Typeflag: tar.TypeFifo}, nil)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := packed.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

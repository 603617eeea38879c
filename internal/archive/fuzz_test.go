package archive

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fuzz gives mutations of the seeds to Extract, packed by each of the given functions, too:
// mutated compressed bytes seldom decompress.
func fuzz(f *testing.F, seeds [][]byte, packed ...func([]byte) []byte) {
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		all := [][]byte{b}
		for _, pack := range packed {
			all = append(all, pack(b))
		}
		for _, archive := range all {
			dir, files, err := extract(t, archive, map[string]string{"bin": "0", Single: "0"}, limits)
			left, dirErr := os.ReadDir(dir)
			if dirErr != nil {
				t.Fatal(dirErr)
			}
			if len(left) != len(files) {
				t.Fatalf("%d files reported, %d left, error %v", len(files), len(left), err)
			}
			if len(files) == 0 {
				continue
			}
			got, readErr := os.ReadFile(filepath.Join(dir, "0"))
			if readErr != nil || files[0].SHA256 != digest(string(got)) || files[0].Size != int64(len(got)) || files[0].Size > limits.Unpacked {
				t.Fatalf("%+v is not what is on disk (%d bytes, %v)", files, len(got), readErr)
			}
			listed, err := List(section(archive), limits)
			if err != nil {
				return // only List reads what is not wanted
			}
			found := false
			for _, l := range listed {
				found = found || l == files[0]
			}
			if !found {
				t.Fatalf("Extract found %+v, List %+v", files, listed)
			}
		}
	})
}

// tars are tar archives of all kinds of entries.
func tars(f *testing.F) [][]byte {
	return [][]byte{
		makeTar(f, file("./bin", "good"), special("d/", tar.TypeDir, ""), file("d/other", "text")),
		makeTar(f, special("l", tar.TypeSymlink, "bin"), file("bin", "good"), special("h", tar.TypeLink, "bin")),
		join(pax('x', "size=512"), rawHeader("bin", '0', "00000000000\x00", nil), tarEnd),
		join(pax('g', "comment=abc"), makeTar(f, file("bin", "good"))),
		join(pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=x", "GNU.sparse.realsize=65536"),
			rawHeader("x", '0', "00000001000\x00", nil), pad("0\n"+strings.Repeat("\x00", 510)), makeTar(f, file("bin", "good"))),
	}
}

// packedTars are the archives of tars and a program, each packed.
func packedTars(f *testing.F, pack func([]byte) []byte) (seeds [][]byte) {
	for _, b := range append(tars(f), []byte("\x7fELF")) {
		seeds = append(seeds, pack(b))
	}
	return append(seeds, join(seeds[0], seeds[1]))
}

func FuzzTar(f *testing.F)  { fuzz(f, tars(f), gz) }
func FuzzGzip(f *testing.F) { fuzz(f, packedTars(f, gz)) }
func FuzzZstd(f *testing.F) {
	fuzz(f, packedTars(f, func(b []byte) []byte { return zst(f, b) }))
}
func FuzzXZ(f *testing.F)    { fuzz(f, packedTars(f, func(b []byte) []byte { return xzip(f, b) })) }
func FuzzBzip2(f *testing.F) { fuzz(f, packedTars(f, func(b []byte) []byte { return bz2(f, b) })) }
func FuzzProgram(f *testing.F) {
	fuzz(f, [][]byte{[]byte("\x7fELF program"), []byte("#!/bin/sh\n")}, gz)
}

func FuzzZip(f *testing.F) {
	encrypted := zipStored("x", "body")
	encrypted.Flags = 1
	fuzz(f, [][]byte{
		makeZip(f, zipFile("bin", "good"), zipFile("d/", ""), zipFile("d/other", "text")),
		makeZip(f, zipStored("bin", "good"), zipMode("l", os.ModeSymlink|0o777, "bin"), encrypted),
		overlapping(f), hidden(f),
	})
}

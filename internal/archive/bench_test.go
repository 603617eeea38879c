package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"os"
	"testing"
)

// program returns 16 MiB that compress about as well as a Go program.
func program() string {
	r := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = make([]byte, 4+r.IntN(12))
		for j := range words[i] {
			words[i][j] = byte(r.Uint32())
		}
	}
	var b bytes.Buffer
	for b.Len() < 16<<20 {
		b.Write(words[r.IntN(len(words))])
	}
	return b.String()
}

func BenchmarkExtract(b *testing.B) {
	body := program()
	plain := makeTar(b, file("bin", body))
	lim := Limits{Unpacked: 64 << 20, Entries: 10}
	for name, archive := range map[string][]byte{"gzip": gz(plain), "zstd": zst(b, plain)} {
		b.Run(name, func(b *testing.B) {
			root, err := os.OpenRoot(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			defer root.Close()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, err := Extract(section(archive), root, names(map[string]string{"bin": "0"}), lim); err != nil {
					b.Fatal(err)
				}
				if err := root.Remove("0"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	// For comparison, as tar -xz: without digest and sync, with the standard library's gzip.
	b.Run("plain gzip and tar", func(b *testing.B) {
		archive, path := gz(plain), b.TempDir()+"/0"
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			z, err := gzip.NewReader(bytes.NewReader(archive))
			if err != nil {
				b.Fatal(err)
			}
			r := tar.NewReader(z)
			if _, err := r.Next(); err != nil {
				b.Fatal(err)
			}
			f, err := os.Create(path)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(f, r); err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	})
}

// BenchmarkList unpacks and hashes, and writes nothing, so that no disk is measured.
func BenchmarkList(b *testing.B) {
	body := program()
	plain := makeTar(b, file("bin", body))
	for name, archive := range map[string][]byte{"gzip": gz(plain), "zstd": zst(b, plain)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := List(section(archive), Limits{Unpacked: 64 << 20, Entries: 10}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

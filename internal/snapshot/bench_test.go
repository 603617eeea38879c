package snapshot

import (
	"fmt"
	"os"
	"testing"
)

// benchmark runs on a file system without shared blocks and on one with them. The data
// are 100 MB in a database and 1,000 files.
func benchmark(b *testing.B, test func(b *testing.B, dir string)) {
	for _, kind := range []string{"ext4", "xfs"} {
		b.Run(kind, func(b *testing.B) {
			dir := disk(b, kind)
			random(b, dir+"/data/db", 90<<20)
			for i := range 1000 {
				random(b, fmt.Sprintf("%s/data/files/%d", dir, i), 10<<10)
			}
			free(b, dir) // syncs
			b.SetBytes(100 << 20)
			test(b, dir)
		})
	}
}

func BenchmarkSave(b *testing.B) {
	benchmark(b, func(b *testing.B, dir string) {
		for b.Loop() {
			save(b, dir+"/data", dir+"/backup")
			b.StopTimer()
			must(b, os.RemoveAll(dir+"/backup"))
			free(b, dir)
			b.StartTimer()
		}
	})
}

// BenchmarkRestoreSame restores data that have not changed.
func BenchmarkRestoreSame(b *testing.B) {
	benchmark(b, func(b *testing.B, dir string) {
		save(b, dir+"/data", dir+"/backup")
		for b.Loop() {
			restore(b, dir+"/backup", dir+"/data", false)
		}
	})
}

// BenchmarkRestoreAll restores data that have all changed.
func BenchmarkRestoreAll(b *testing.B) {
	benchmark(b, func(b *testing.B, dir string) {
		save(b, dir+"/data", dir+"/backup")
		for b.Loop() {
			b.StopTimer()
			must(b, os.RemoveAll(dir+"/data/files"))
			random(b, dir+"/data/db", 80<<20)
			free(b, dir)
			b.StartTimer()
			restore(b, dir+"/backup", dir+"/data", true)
		}
	})
}

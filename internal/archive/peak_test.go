package archive

import (
	"archive/zip"
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// peakChild makes the test binary extract the archive with this name and exit.
const peakChild = "MACHINEMON_TEST_PEAK"

var peakSize = flag.Int64("peak", 64<<20, "how many bytes the archives of BenchmarkPeakMemory unpack to")

func TestMain(m *testing.M) {
	if path := os.Getenv(peakChild); path != "" {
		extractAlone(path)
	}
	os.Exit(m.Run())
}

// extractAlone extracts one entry as the verifier does, and prints the peak memory of this
// process, as proc_pid_status(5) has it. That of getrusage(2) counts the parent's, too.
func extractAlone(path string) {
	f, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	info, err := f.Stat()
	if err != nil {
		panic(err)
	}
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		panic(err)
	}
	if _, err := Extract(io.NewSectionReader(f, 0, info.Size()), root, func(Entry) string { return "out" }, Limits{Unpacked: 2 << 30, Entries: 10}); err != nil {
		panic(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	_, peak, _ := strings.Cut(string(status), "\nVmHWM:")
	fmt.Print(strings.Fields(peak)[0]) // kB
	os.Exit(0)
}

// BenchmarkPeakMemory reports the peak memory of a process that extracts an archive of
// each format, and how large the archive is. With -peak 1073741824 they unpack to a GiB.
// It needs the programs xz and bzip2.
func BenchmarkPeakMemory(b *testing.B) {
	dir := b.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	run := func(out, program string, args ...string) {
		f, err := os.Create(at(out))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		cmd := exec.Command(program, args...)
		cmd.Stdout, cmd.Stderr = f, os.Stderr
		if err := cmd.Run(); err != nil {
			b.Fatalf("%s: %v", program, err)
		}
	}
	through := func(out string, open func(io.Writer) (io.WriteCloser, error)) {
		in, err := os.Open(at("tar"))
		if err != nil {
			b.Fatal(err)
		}
		defer in.Close()
		f, err := os.Create(at(out))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		w, err := open(f)
		if err == nil {
			_, err = io.Copy(w, in)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	one := []byte("\x7fELF" + program()[4:])
	body, err := os.Create(at("raw"))
	if err != nil {
		b.Fatal(err)
	}
	for n := int64(0); n < *peakSize; n += int64(len(one)) {
		if _, err := body.Write(one[:min(int64(len(one)), *peakSize-n)]); err != nil {
			b.Fatal(err)
		}
	}
	if err := body.Close(); err != nil {
		b.Fatal(err)
	}
	run("tar", "tar", "-C", dir, "-c", "raw")
	for _, format := range []struct {
		name string
		make func()
	}{
		{"raw", func() {}},
		{"tar", func() {}},
		{"tar.gz", func() {
			through("tar.gz", func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, 1) })
		}},
		{"tar.zst", func() {
			through("tar.zst", func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w, zstd.WithWindowSize(8<<20)) })
		}},
		{"tar.zst-long=27", func() {
			through("tar.zst-long=27", func(w io.Writer) (io.WriteCloser, error) {
				return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(maxWindow))
			})
		}},
		{"tar.bz2", func() { run("tar.bz2", "bzip2", "-9", "-c", at("tar")) }},
		{"tar.xz", func() { run("tar.xz", "xz", "-0", "--lzma2=preset=0,dict=64MiB", "-T2", "-c", at("tar")) }},
		{"tar.xz-dict=128MiB", func() {
			run("tar.xz-dict=128MiB", "xz", "-0", "--lzma2=preset=0,dict=128MiB", "-T2", "-c", at("tar"))
		}},
		{"zip", func() {
			through("zip", func(w io.Writer) (io.WriteCloser, error) {
				z := zip.NewWriter(w)
				entry, err := z.Create("raw")
				return struct {
					io.Writer
					io.Closer
				}{entry, z}, err
			})
		}},
	} {
		b.Run(format.name, func(b *testing.B) {
			format.make()
			info, err := os.Stat(at(format.name))
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), peakChild+"="+at(format.name))
				out, err := cmd.Output()
				peak, wrong := strconv.ParseFloat(string(out), 64)
				if err != nil || wrong != nil {
					b.Fatalf("%v: %v\n%s", err, wrong, out)
				}
				b.ReportMetric(peak/1024, "MiB-peak")
				b.ReportMetric(float64(info.Size())/1e6, "MB-archive")
				if err := os.Remove(at("out")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package generate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkRun is what each daemon-reload waits for: the generator with every target
// that the packages bring, and the example, which has every key.
func BenchmarkRun(b *testing.B) {
	shipped, err := filepath.Glob("../../packaging/targets.d/*.toml")
	if err != nil || len(shipped) == 0 {
		b.Fatal(shipped, err)
	}
	targets := map[string]string{}
	for _, file := range append(shipped, "../../packaging/examples/daemon.toml") {
		content, err := os.ReadFile(file)
		must(b, err)
		targets[filepath.Base(file)] = string(content)
	}
	d := tree(b, targets)
	out := filepath.Join(b.TempDir(), "out")
	for b.Loop() {
		var log strings.Builder
		if err := Run(d, out, &log); err != nil || log.Len() > 0 {
			b.Fatal(err, log.String())
		}
		must(b, os.RemoveAll(out))
	}
}

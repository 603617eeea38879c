//go:build cross

// Package cmd tests the programs as they are built for other architectures.
package cmd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The oldest processors that the packages are for. The arm1176 is that of the first
// Raspberry Pis: it stops a program that uses ARMv7.
var processors = []struct {
	platform, goarch, emulator, model string
}{
	{"linux-arm64", "arm64", "qemu-aarch64-static", "cortex-a53"},
	{"linux-armv6", "arm", "qemu-arm-static", "arm1176"},
}

const targetFile = `unit = "app.service"
[source]
type = "manifest"
url = "https://releases.example.com/client-manifest.json"
[[install]]
from = "app"
to = "/usr/local/bin/app"
`

// TestCross runs the programs for each architecture under qemu: they say their version,
// read a target file, write a manifest, read it again, and generate units.
func TestCross(t *testing.T) {
	for _, p := range processors {
		t.Run(p.platform, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=7.8.9", "-o", root,
				"./fetcher", "./generator", "./machinemon-release", "./machinemon-update")
			build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+p.goarch, "GOARM=6")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			emulator, err := exec.LookPath(p.emulator)
			ok(t, err)
			static, err := os.ReadFile(emulator)
			ok(t, err)
			ok(t, os.WriteFile(filepath.Join(root, "qemu"), static, 0o755))
			for _, dir := range []string{"etc/machinemon-update/targets.d", "var/lib/machinemon-update/swap/app", "run/machinemon-update", "srv/releases", "out"} {
				ok(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
			}
			ok(t, os.CopyFS(filepath.Join(root, "usr/lib/systemd/system"), os.DirFS("../units")))
			ok(t, os.WriteFile(filepath.Join(root, "etc/machinemon-update/targets.d/app.toml"), []byte(targetFile), 0o644))
			archive := "app-1.2.0-" + p.platform + ".tar.gz"
			pack := exec.Command("tar", "-czf", filepath.Join(root, "srv", archive), "-C", "..", "--transform=s/.*/app/", "go.mod")
			if out, err := pack.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			run := func(want string, argv ...string) {
				t.Helper()
				cmd := exec.Command("chroot", append([]string{root, "/qemu", "-cpu", p.model}, argv...)...)
				out, err := cmd.CombinedOutput()
				if err != nil || !strings.Contains(string(out), want) {
					t.Errorf("%q: %v\n%s", argv, err, out)
				}
			}
			run("machinemon-update 7.8.9\n", "/machinemon-update", "version")
			run("app: ok\n", "/machinemon-update", "check-config", "app")
			run("published app 1.2.0", "/machinemon-release", "publish", "/srv/releases", "--version", "1.2.0", "/srv/"+archive)
			run(`"handed on"`, "/fetcher", "import", "app", "/srv/releases/client-manifest.json", "", "")
			run("", "/generator", "/out", "/out", "/out")
			if units, err := os.ReadDir(filepath.Join(root, "out")); err != nil || len(units) == 0 {
				t.Errorf("the generator made %v: %v", units, err)
			}
		})
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

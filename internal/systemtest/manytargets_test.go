//go:build systemd

package systemtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestHundredTargets updates a hundred targets of one machine at once, each with a daemon of
// its own. It reports how long that takes, and how much memory and CPU time of the machine.
//
//	make faults
func TestHundredTargets(t *testing.T) {
	if !testkit.ManyFaults() {
		t.Skip("takes minutes; run make faults")
	}
	const n, from = 100, "127.0.0.1:9010"
	b := boot(t)
	b.stopShipped()
	dir := t.TempDir()
	l, err := b.Listen("tcp", from)
	b.ok(err)
	server := releases.ServeBy(l, newStatic(dir))
	t.Cleanup(func() { server.Close() })

	name := func(i int) string { return fmt.Sprintf("many-%02d", i) }
	address := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", 11000+i) }
	var units []string
	old := string(build(t, releases.Daemon{Version: "1.0.0"}))
	for i := range n {
		// The daemon and the gate wait for their turns among all the others.
		b.writeFile("/etc/machinemon-update/targets.d/"+name(i)+".toml", `unit = "`+name(i)+`.service"
[source]
url = "http://`+from+`/client-manifest.json"
[[install]]
from = "testd"
to = "/usr/local/bin/`+name(i)+`"
[health]
timeout_seconds = 120
settle_seconds = 1
[[health.probe]]
http = "http://`+address(i)+`/healthz"
`, 0o644)
		b.writeFile("/usr/local/bin/"+name(i), old, 0o755)
		b.writeFile("/etc/systemd/system/"+name(i)+".service", "[Service]\nExecStart=/usr/local/bin/"+name(i)+"\nEnvironment=TESTD_ADDRESS="+address(i)+"\n", 0o644)
		units = append(units, name(i)+".service")
	}
	b.must("systemctl", "daemon-reload")
	b.must(append([]string{"systemctl", "start", "paths.target"}, units...)...)
	archive := filepath.Join(t.TempDir(), "testd-linux-amd64.tar.gz")
	b.ok(releases.Pack(archive, releases.File{Name: "testd", Content: build(t, releases.Daemon{Version: "1.1.0"})}))
	b.ok(releases.Publish(t.Context(), lab.Installed("/usr/bin/machinemon-release"), dir, "1.1.0", "--deltas=0", archive))

	least, stop := make(chan int64), make(chan struct{})
	before := availableMemory(t)
	go func() {
		low := before
		for {
			select {
			case <-stop:
				least <- low
				return
			case <-time.After(100 * time.Millisecond):
				low = min(low, availableMemory(t))
			}
		}
	}()
	began, cpu := time.Now(), b.cpu()
	var all []*machine.Process
	for i := range n {
		all = append(all, b.start("machinemon-update", "apply", name(i)))
	}
	patience, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	for i, p := range all {
		r, err := p.Wait(patience)
		b.ok(err)
		if r.Code != 0 || !strings.Contains(r.Stdout, "committed 1.1.0") {
			t.Errorf("%s: exit status %d: %s%s", name(i), r.Code, r.Stdout, r.Stderr)
		}
	}
	took := time.Since(began)
	close(stop)
	used := before - <-least
	cpu = b.cpu() - cpu
	for i := range n {
		if _, got, err := b.getFrom(address(i), "/version"); err != nil || got != "1.1.0" {
			t.Errorf("%s serves %q, %v", name(i), got, err)
		}
	}
	if left := b.must("sh", "-c", "systemctl --failed --plain --no-legend; ls /var/lib/machinemon-update/swap/*/journal.json 2>/dev/null || :"); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
	t.Logf("%d targets at once: %.0f s, %.0f s of CPU, at most %d MiB more memory in use", n, took.Seconds(), cpu/1000, used>>20)
}

// availableMemory returns how many bytes this host's programs could still get.
func availableMemory(t *testing.T) (n int64) {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Error(err)
		return 0
	}
	_, rest, _ := strings.Cut(string(info), "\nMemAvailable:")
	if _, err := fmt.Sscanf(rest, "%d kB", &n); err != nil {
		t.Error(err)
	}
	return n << 10
}

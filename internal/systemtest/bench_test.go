//go:build systemd

package systemtest

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

var (
	benchRounds = flag.Int("bench", 0, "measure updates in so many `rounds`")
	benchOnly   = flag.String("bench-rows", "", "measure only the rows whose names match this `pattern`, and the plain restarts")
	benchJSON   = flag.String("bench-json", "", "write the figures to this `file`, too")
)

// TestBench measures what an update costs, beside what an operator would do by hand: for
// how long the service does not answer, how long everything takes, CPU time, bytes and
// requests. The rows take turns on one machine, because only figures of one run can be
// compared. Targets have no settle time, so that no row has to wait for it.
//
//	make bench ROUNDS=5
func TestBench(t *testing.T) {
	if *benchRounds == 0 {
		t.Skip("measures; run make bench")
	}
	b := newBench(t)
	rows := selected(t, b.rows())
	for range *benchRounds {
		for _, r := range rows {
			b.round(r)
		}
	}
	table := tableOf(rows)
	t.Logf("medians of %d, and the spread:\n%s", *benchRounds, table)
	if *benchJSON != "" {
		out, err := json.MarshalIndent(rows, "", "  ")
		b.ok(err)
		b.ok(os.WriteFile(*benchJSON, append(out, '\n'), 0o644))
	}
}

// bench is a machine with three targets, each with a server of its releases.
type bench struct {
	*box
	small, large, signed *benchTarget
}

// A benchTarget is an instance of the test daemon whose file is padded to a size.
type benchTarget struct {
	*box
	name, address, from string
	size                int
	publisher           *publisher // nil: the releases are not signed
	dir                 string
	server              *releases.Server
	minor               int // of the version that was published last
	runs                string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{box: boot(t)}
	b.stopShipped()
	b.writeFile("/usr/local/sbin/by-hand", byHand, 0o755)
	b.writeFile("/usr/local/sbin/fetch-only", fetchOnly, 0o755)
	b.small = b.newTarget("small", "127.0.0.1:9210", "127.0.0.1:9010", 13<<20, nil)
	b.large = b.newTarget("large", "127.0.0.1:9211", "127.0.0.1:9011", 110<<20, nil)
	b.signed = b.newTarget("signed", "127.0.0.1:9212", "127.0.0.1:9012", 13<<20, newPublisher(t))
	return b
}

// newTarget installs version 1.0.0 by hand, and makes it a target without a settle time.
func (b *bench) newTarget(name, address, from string, size int, p *publisher) *benchTarget {
	b.t.Helper()
	c := &benchTarget{box: b.box, name: name, address: address, from: from, size: size, publisher: p, dir: b.t.TempDir()}
	target := `unit = "` + name + `.service"
[source]
url = "http://` + from + `/client-manifest.json"
[[install]]
from = "testd"
to = "/usr/local/bin/` + name + `"
[health]
timeout_seconds = 5
settle_seconds = 0
version_command = ["/usr/local/bin/` + name + `", "--version"]
[[health.probe]]
http = "http://` + address + `/healthz"
`
	if p != nil {
		target += "[trust]\nmode = \"tuf\"\nproduct = \"testd\"\n"
		c.dir = p.repo
	}
	b.writeFile("/etc/machinemon-update/targets.d/"+name+".toml", target, 0o644)
	c.runs = "1.0.0"
	b.writeFile("/usr/local/bin/"+name, string(c.program(releases.Daemon{Version: c.runs})), 0o755)
	b.writeFile("/etc/systemd/system/"+name+".service", "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/usr/local/bin/"+name+
		"\nEnvironment=TESTD_ADDRESS="+address+"\nRestart=on-failure\n[Install]\nWantedBy=multi-user.target\n", 0o644)
	b.must("systemctl", "enable", "--quiet", "--now", name+".service")
	b.must("systemctl", "start", "paths.target")
	l, err := b.Listen("tcp", from)
	b.ok(err)
	c.server = releases.ServeBy(l, newStatic(c.dir))
	b.t.Cleanup(func() { c.server.Close() })
	c.await()
	if p != nil {
		root, err := os.ReadFile(filepath.Join(p.repo, "1.root.json"))
		b.ok(err)
		b.writeFile("/root/root.json", string(root), 0o600)
		b.must("machinemon-update", "trust", name, "/root/root.json", "--sha256", digest(string(root)))
	}
	return c
}

// publish publishes the next version, which behaves so, in the target's way. With deltas
// there is one from the release before.
func (c *benchTarget) publish(behaviour string, deltas bool) (version string) {
	c.t.Helper()
	c.minor++
	d := releases.Daemon{Version: fmt.Sprintf("1.%d.0", c.minor), Behaviour: behaviour}
	archive := filepath.Join(c.t.TempDir(), "testd-linux-amd64.tar.gz")
	c.ok(releases.Pack(archive, releases.File{Name: "testd", Content: c.program(d)}))
	args := []string{"publish", c.dir, "--version", d.Version}
	if !deltas {
		args = append(args, "--deltas=0")
	}
	if c.publisher == nil {
		c.ok(releases.Publish(c.t.Context(), lab.Installed("/usr/bin/machinemon-release"), c.dir, d.Version, append(args[4:], archive)...))
	} else {
		c.publisher.release(append(args, "--keys", c.publisher.keys, "--passphrase-fd", "3", archive)...)
	}
	c.ok(os.Remove(archive))
	return d.Version
}

// program is a build of the daemon, padded to the target's size. As in programs, four
// tenths of the padding cannot be compressed.
func (c *benchTarget) program(d releases.Daemon) []byte {
	c.t.Helper()
	return append(build(c.t, d), padding()[:c.size-len(build(c.t, d))]...)
}

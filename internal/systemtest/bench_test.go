//go:build systemd

package systemtest

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

var (
	benchRounds = flag.Int("bench", 0, "measure updates in so many `rounds`")
	benchOnly   = flag.String("bench-rows", "", "measure only the rows whose names match this `pattern`, and the plain restarts")
	benchJSON   = flag.String("bench-json", "", "write the figures to this `file`, too")
)

// TestBench measures what an update costs, beside what an operator would do by hand: for
// how long the service does not answer, how long everything takes, CPU time, memory, bytes
// and requests. The rows take turns on one machine, because only figures of one run can be
// compared. Targets have no settle time, so that no row has to wait for it. A round before
// the others counts syncs, which makes it slower, so it is not timed.
//
//	make bench ROUNDS=5
//	make bench ROWS='small.*update'
//	make bench ROWS=GiB
func TestBench(t *testing.T) {
	if *benchRounds == 0 {
		t.Skip("measures; run make bench")
	}
	b := newBench(t)
	rows := selected(t, b.rows())
	b.countSyncs(rows)
	for i := range *benchRounds {
		for _, r := range rows {
			if i == 0 || !r.once {
				s := b.measure(r)
				r.Samples = append(r.Samples, s)
			}
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

// bench is a machine with targets, each with a server of its releases.
type bench struct {
	*box
	ends  *machine.Ends
	syncs *machine.Syncs // nil, but in the round that counts them
}

// A benchTarget is an instance of the test daemon whose file is padded to a size.
type benchTarget struct {
	*box
	name, address, from string
	padding             []byte // after the program's own bytes
	size                int
	publisher           *publisher // nil: the releases are not signed
	dir                 string
	server              *releases.Server // nil: the target is not installed
	minor               int              // of the version that was published last
	runs                string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	ends, err := machine.WatchEnds()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ends.Close() })
	b := &bench{box: boot(t), ends: ends}
	b.stopShipped()
	b.writeFile("/usr/local/sbin/by-hand", byHand, 0o755)
	b.writeFile("/usr/local/sbin/fetch-only", fetchOnly, 0o755)
	return b
}

// newTarget returns a target that install has to install. n makes its addresses.
func (b *bench) newTarget(name string, n, size int, p *publisher) *benchTarget {
	c := &benchTarget{box: b.box, name: name, address: fmt.Sprintf("127.0.0.1:%d", 9210+n), from: fmt.Sprintf("127.0.0.1:%d", 9010+n), size: size, publisher: p}
	c.dir = b.t.TempDir()
	if p != nil {
		c.dir = p.repo
	}
	return c
}

// install installs version 1.0.0 by hand, and makes it a target without a settle time.
// As in programs, four tenths of the padding cannot be compressed, or else one tenth.
func (c *benchTarget) install() {
	c.t.Helper()
	random := 4
	if c.size >= 1<<30 {
		random = 1
	}
	c.padding = filler(c.size-len(build(c.t, releases.Daemon{})), random)
	target := `unit = "` + c.name + `.service"
[source]
url = "http://` + c.from + `/client-manifest.json"
[[install]]
from = "testd"
to = "/usr/local/bin/` + c.name + `"
[health]
timeout_seconds = 5
settle_seconds = 0
version_command = ["/usr/local/bin/` + c.name + `", "--version"]
[[health.probe]]
http = "http://` + c.address + `/healthz"
`
	if c.publisher != nil {
		target += "[trust]\nmode = \"tuf\"\nproduct = \"testd\"\n"
	}
	c.writeFile("/etc/machinemon-update/targets.d/"+c.name+".toml", target, 0o644)
	c.runs = "1.0.0"
	c.writeFile("/usr/local/bin/"+c.name, string(c.program(releases.Daemon{Version: c.runs})), 0o755)
	c.writeFile("/etc/systemd/system/"+c.name+".service", "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/usr/local/bin/"+c.name+
		"\nEnvironment=TESTD_ADDRESS="+c.address+"\nRestart=on-failure\n[Install]\nWantedBy=multi-user.target\n", 0o644)
	c.must("systemctl", "enable", "--quiet", "--now", c.name+".service")
	c.must("systemctl", "start", "paths.target")
	l, err := c.Listen("tcp", c.from)
	c.ok(err)
	c.server = releases.ServeBy(l, newStatic(c.dir))
	c.t.Cleanup(func() { c.server.Close() })
	c.await()
	if c.publisher != nil {
		root, err := os.ReadFile(filepath.Join(c.dir, "1.root.json"))
		c.ok(err)
		c.writeFile("/root/root.json", string(root), 0o600)
		c.must("machinemon-update", "trust", c.name, "/root/root.json", "--sha256", digest(string(root)))
	}
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

// program is a build of the daemon, padded to the target's size.
func (c *benchTarget) program(d releases.Daemon) []byte {
	c.t.Helper()
	return append(build(c.t, d), c.padding...)
}

// filler returns the same bytes each time, of which so many tenths cannot be compressed.
func filler(size, random int) []byte {
	r := rand.NewChaCha8([32]byte{})
	all := make([]byte, size)
	for piece := range slices.Chunk(all, 4096) {
		r.Read(piece[:len(piece)*random/10])
	}
	return all
}

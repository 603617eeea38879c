//go:build systemd

package systemtest

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
)

var (
	release = flag.String("release", "bookworm", "the Debian `release` to boot")
	debs    = flag.String("debs", "../../dist", "the `directory` of the packages to install")
	from    = flag.String("from", "", "the `directory` of an earlier release's packages, to install first and to upgrade from")
	shard   = flag.String("shard", "", "which `part` of the tests to run: 2/3 is every third, from the second on")
	keep    = flag.Bool("keep", false, "keep a machine after the tests, until a signal")
)

var lab *machine.Lab

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.list").Value.String() != "" {
		os.Exit(m.Run()) // needs no machine
	}
	if err := onlyShard(*shard); err != nil {
		logf("%v", err)
		os.Exit(1)
	}
	os.Exit(run(m))
}

// onlyShard selects a part, such as "2/3", of the tests that -run selects. Each test is
// in one part; "" selects all.
func onlyShard(part string) error {
	if part == "" {
		return nil
	}
	var k, n int
	if _, err := fmt.Sscanf(part, "%d/%d", &k, &n); err != nil || k < 1 || k > n {
		return fmt.Errorf("cannot run part %q of the tests (allowed: 1/N to N/N)", part)
	}
	pattern := flag.Lookup("test.run").Value
	out, err := exec.Command("/proc/self/exe", "-test.list", cmp.Or(pattern.String(), ".")).Output()
	if err != nil {
		return fmt.Errorf("cannot list the tests: %w", err)
	}
	var mine []string
	for i, name := range strings.Fields(string(out)) {
		if i%n == k-1 {
			mine = append(mine, name)
		}
	}
	logf("part %s: %s", part, strings.Join(mine, " "))
	return pattern.Set("^(" + strings.Join(mine, "|") + ")$")
}

func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := machine.Options{Release: *release, Logf: logf}
	var err error
	o.Debs, err = filepath.Glob(filepath.Join(*debs, "*.deb"))
	if err == nil && len(o.Debs) == 0 {
		err = fmt.Errorf("no packages in %s: run make deb", *debs)
	}
	if err == nil && *from != "" {
		o.From, err = filepath.Glob(filepath.Join(*from, "*.deb"))
		if err == nil && len(o.From) == 0 {
			err = fmt.Errorf("no packages to upgrade from in %s", *from)
		}
	}
	if err == nil {
		lab, err = machine.NewLab(ctx, o)
	}
	if err != nil {
		logf("%v", err)
		return 1
	}
	ignore := context.AfterFunc(ctx, func() {
		lab.Close() // ends the machines, which the tests in them cannot do
		os.Exit(130)
	})
	status := m.Run()
	ignore()
	if *keep {
		kept.stay(ctx)
	}
	if err := lab.Close(); err != nil {
		logf("%v", err)
		return 1
	}
	return status
}

func logf(format string, args ...any) { fmt.Fprintf(os.Stderr, "systemtest: "+format+"\n", args...) }

// box is a machine whose methods fail the test instead of returning errors.
type box struct {
	*machine.Machine
	t      *testing.T
	signed bool // testd's releases are signed, which status must show
}

// once skips a test on other releases than bookworm if it does not depend on systemd's
// version: tests of files, disks, servers, configuration and packages.
func once(t *testing.T) {
	t.Helper()
	if *release != "bookworm" {
		t.Skip("what it tests is the same with every systemd, and it runs on bookworm")
	}
}

// boot returns a fresh machine with the packages installed.
func boot(t *testing.T) *box {
	t.Helper()
	return bootBy(t, lab.New)
}

// bootBare returns a fresh machine on which our packages were never installed.
func bootBare(t *testing.T) *box {
	t.Helper()
	return bootBy(t, lab.NewBare)
}

func bootBy(t *testing.T, boot func(context.Context, string) (*machine.Machine, error)) *box {
	t.Helper()
	began := time.Now()
	m, err := boot(t.Context(), t.Name())
	if err != nil {
		t.Fatal(err)
	}
	b := &box{Machine: m, t: t}
	t.Cleanup(func() {
		outcome := "passed"
		if t.Failed() {
			outcome = "FAILED"
			b.dump()
		}
		logf("%s: %s after %s", t.Name(), outcome, time.Since(began).Round(time.Second))
		if *keep && kept.take(t, m) {
			return
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// dump logs what helps to find a failure. t.Context has ended by now.
func (b *box) dump() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, argv := range [][]string{
		{"systemctl", "list-units", "--all", "--no-pager", "--plain", "machinemon-*", "testd*"},
		{"systemctl", "--failed", "--no-pager", "--plain"},
		{"journalctl", "--no-pager", "--output=short-precise", "--boot=all", "--lines=300"},
	} {
		r, err := b.Machine.Run(ctx, argv...)
		b.t.Logf("%s: %q exited %d, %v\n%s%s", b.Name, argv, r.Code, err, r.Stdout, r.Stderr)
	}
}

func (b *box) ok(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// run runs a command and returns its result, also if the exit status is not 0.
func (b *box) run(argv ...string) machine.Result {
	b.t.Helper()
	r, err := b.Machine.Run(b.t.Context(), argv...)
	b.ok(err)
	return r
}

// must runs a command, which must exit with 0, and returns its standard output.
func (b *box) must(argv ...string) string {
	b.t.Helper()
	r := b.run(argv...)
	if r.Code != 0 {
		b.t.Fatalf("%q exited %d:\n%s%s", argv, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// start runs a command in the background.
func (b *box) start(argv ...string) *machine.Process {
	b.t.Helper()
	p, err := b.Machine.Start(argv...)
	b.ok(err)
	return p
}

// wait waits for a command that start started.
func (b *box) wait(p *machine.Process) machine.Result {
	b.t.Helper()
	r, err := p.Wait(b.t.Context())
	b.ok(err)
	return r
}

// boot boots the machine again after Yank or powerOff.
func (b *box) boot() {
	b.t.Helper()
	b.ok(b.Machine.Boot(b.t.Context()))
}

func (b *box) powerOff() {
	b.t.Helper()
	b.ok(b.Machine.PowerOff(b.t.Context()))
}

// reboot reboots the machine and returns after the boot.
func (b *box) reboot() {
	b.t.Helper()
	b.ok(b.Machine.Reboot(b.t.Context()))
}

func (b *box) writeFile(name, content string, mode os.FileMode) {
	b.t.Helper()
	b.ok(b.Machine.WriteFile(name, []byte(content), mode))
}

func (b *box) readFile(name string) string {
	b.t.Helper()
	content, err := b.Machine.ReadFile(name)
	b.ok(err)
	return string(content)
}

// cursor returns the present end of the journal.
func (b *box) cursor() machine.Cursor {
	b.t.Helper()
	c, err := b.Machine.JournalCursor(b.t.Context())
	b.ok(err)
	return c
}

// journal returns what journalctl prints with these arguments. It first waits until the
// journal has all that was written to it, because systemd may report the end of a service
// before the journal has read the service's last lines.
func (b *box) journal(args ...string) string {
	b.t.Helper()
	b.ok(b.Machine.SyncJournal(b.t.Context()))
	return b.must(append([]string{"journalctl", "--no-pager"}, args...)...)
}

// await returns the first journal entry after the cursor that matches.
func (b *box) await(after machine.Cursor, match func(machine.Entry) bool) machine.Entry {
	b.t.Helper()
	e, err := b.Machine.AwaitJournal(b.t.Context(), after, match)
	b.ok(err)
	return e
}

// awaitEvent waits for an event such as "demo.service started".
func (b *box) awaitEvent(after machine.Cursor, event string) {
	b.t.Helper()
	b.ok(b.Machine.AwaitEvent(b.t.Context(), after, event))
}

// assertOrder fails the test unless these events are in the journal in this order.
func (b *box) assertOrder(after machine.Cursor, want ...string) {
	b.t.Helper()
	events, err := b.Machine.UnitEvents(b.t.Context(), after)
	b.ok(err)
	if err := machine.InOrder(events, want...); err != nil {
		b.t.Error(err)
	}
}

//go:build systemd

package systemtest

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemtest/machine"
	"github.com/machinemon/machinemon-update/internal/systemtest/releases"
)

var (
	powerCuts = flag.Int("powercut", 0, "cut the power so many `times`")
	powerSeed = flag.Uint64("seed", 1, "the `seed` of the moments at which the power is cut")
	powerStep = flag.Bool("steps", false, "cut the power when something has become durable, not at random moments")
	powerDisk = flag.String("disk", "ext4", "the file `system` of the disk that loses its power: ext4, xfs or btrfs")
)

// TestPowerCuts cuts the power during updates of several kinds: at random moments, or in
// random order each time that something has become durable. A cut keeps what had reached
// the disk. From each, a machine is booted, and must run one version with all files and
// data of that version.
//
//	make powercut N=100 SEED=1
//	make powercut N=100 SEED=1 STEPS=1
func TestPowerCuts(t *testing.T) {
	if *powerCuts == 0 {
		t.Skip("takes seconds for each cut; run make powercut")
	}
	store, err := lab.NewStore(64 << 30)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	system, err := store.NewDisk(t.Context(), *powerDisk, 3<<30)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("the method", func(t *testing.T) { cutsLoseWhatIsNotSynced(t, system) })
	kinds := cutKinds()
	for _, k := range kinds {
		temp := t.TempDir()
		t.Run(k.name+"/made", func(t *testing.T) { k.make(t, system, temp) })
		// The cuts are within the time, or the steps, that an update takes without a cut.
		t.Run(k.name+"/measured", func(t *testing.T) { k.update(t, nil) })
		if t.Failed() {
			t.FailNow()
		}
	}
	random := rand.New(rand.NewPCG(*powerSeed, 0))
	report := cutReport{seen: map[string]int{}}
	for round := 0; report.total() < *powerCuts && !t.Failed(); round++ {
		k := kinds[round%len(kinds)]
		var cuts []powerCut
		moments := k.moments(random, min(10, *powerCuts-report.total()))
		t.Run(fmt.Sprintf("%s/update%d", k.name, round), func(t *testing.T) { cuts = k.update(t, moments) })
		t.Run(fmt.Sprintf("%s/boots%d", k.name, round), func(t *testing.T) {
			for _, cut := range cuts {
				t.Run(cut.at, func(t *testing.T) {
					t.Parallel()
					report.add(k.boot(t, cut))
				})
			}
		})
	}
	t.Logf("seed %d, %s, %d power cuts:\n%s", *powerSeed, *powerDisk, report.total(), &report)
	if *powerStep {
		for _, k := range kinds {
			t.Logf("%s: %d steps, %d of them not cut", k.name, k.steps, len(k.left))
		}
	}
}

// moments returns n moments of an update in order: nanoseconds since it began, or with
// -steps how much had become durable. A step is chosen once until all have been.
func (k *cutKind) moments(random *rand.Rand, n int) (at []int64) {
	for range n {
		if !*powerStep {
			at = append(at, random.Int64N(int64(k.took)*11/10))
			continue
		}
		if len(k.left) == 0 {
			k.left = random.Perm(int(k.steps))
		}
		at, k.left = append(at, int64(k.left[0])), k.left[1:]
	}
	slices.Sort(at)
	return slices.Compact(at)
}

// cutsLoseWhatIsNotSynced shows that a copy of the disk has no file that was not synced.
func cutsLoseWhatIsNotSynced(t *testing.T, system *machine.Disk) {
	b := bootOn(t, system, nil)
	b.must("sh", "-c", "echo kept >/root/synced && sync /root/synced /root && echo lost >/root/unsynced")
	cut, err := system.Copy(t.Context())
	b.ok(err)
	b.yank()
	after, err := lab.NewOn("cut", cut)
	b.ok(err)
	defer after.Close()
	if kept, err := after.ReadFile("/root/synced"); err != nil || string(kept) != "kept\n" {
		t.Errorf("what was synced: %q, %v", kept, err)
	}
	if lost, err := after.ReadFile("/root/unsynced"); err == nil && len(lost) > 0 {
		t.Errorf("what was not synced is there: %q", lost)
	}
}

// bootOn boots a machine on the disk. before is called when its file system is mounted.
func bootOn(t *testing.T, d *machine.Disk, before func(*machine.Machine)) *box {
	t.Helper()
	return bootBy(t, func(ctx context.Context, name string) (*machine.Machine, error) {
		m, err := lab.NewOn(name, d)
		if err != nil {
			return nil, err
		}
		if before != nil {
			before(m)
		}
		if err := m.Boot(ctx); err != nil {
			return nil, errors.Join(err, m.Close())
		}
		return m, nil
	})
}

// cutText is the directory of the text files that releases of the kinds with files have,
// and cutData that of data which a hook changes. Each file has the version.
const (
	cutText = "/usr/local/lib/testd"
	cutData = "/var/lib/testd"
	cutHook = "/etc/machinemon-update/hooks/migrate"
	lastCut = "9.0.0" // the release that must be installed after each cut
)

var (
	cutTexts = []string{"a", "b", "c", "d"}
	cutFiles = func() (toml string) {
		for _, name := range cutTexts {
			toml += "[[install]]\nfrom = \"" + name + "\"\nto = \"" + cutText + "/" + name + "\"\n"
		}
		return toml
	}()
	cutSnapshot = "[rollback]\nsnapshot = [\"" + cutData + "\"]\nstop = true\n[hooks]\npre_swap = [\"" + cutHook + "\"]\n"
)

// A cutKind is a kind of update from version 1.0.0 to 1.1.0, which is rolled back unless
// good is set.
type cutKind struct {
	name      string
	target    string // the target file
	behaviour string // of 1.1.0
	hook      string // the end of the hook's script
	deltas    bool
	signed    bool
	goesBack  bool // the operator goes back from 1.1.0 to 1.0.0
	exit      int  // of the command

	base  *machine.Disk
	dir   string // what its server has during the update, and next what it has afterwards
	next  string
	took  time.Duration // the update
	steps int64         // how often something became durable during it
	left  []int         // the steps at which the power was not cut yet
}

func cutKinds() []*cutKind {
	return []*cutKind{
		{name: "good", target: testdTarget + cutFiles + cutSnapshot},
		{name: "exits at once", target: testdTarget + cutFiles + cutSnapshot, behaviour: "exit1-at-once", exit: 4},
		{name: "dies late", target: strings.Replace(testdTarget, "settle_seconds = 1", "settle_seconds = 5", 1) + cutFiles + cutSnapshot, behaviour: "exit-after-3s", exit: 4},
		{name: "its hook fails", target: testdTarget + cutFiles + cutSnapshot, hook: "[ $MACHINEMON_VERSION = 9.0.0 ] || exit 3\n", exit: 1},
		{name: "by delta", target: testdTarget, deltas: true},
		{name: "signed", target: signedTarget, signed: true},
		{name: "the operator goes back", target: testdTarget + cutFiles, goesBack: true},
	}
}

// withFiles reports whether the kind's releases have text files, and withData whether a
// hook changes data.
func (k *cutKind) withFiles() bool { return strings.Contains(k.target, cutText) }
func (k *cutKind) withData() bool  { return strings.Contains(k.target, cutHook) }

// make makes the disk from which each update of this kind begins, and what its servers
// have, below temp.
func (k *cutKind) make(t *testing.T, system *machine.Disk, temp string) {
	var err error
	if k.base, err = system.Copy(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := bootOn(t, k.base, nil)
	k.dir, k.next = filepath.Join(temp, "now"), filepath.Join(temp, "next")
	b.ok(os.Mkdir(k.dir, 0o755))
	b.must("mkdir", "-p", cutText, cutData, filepath.Dir(cutHook))
	for _, name := range cutTexts {
		b.writeFile(cutText+"/"+name, "1.0.0\n", 0o644)
		b.writeFile(cutData+"/"+name, "1.0.0\n", 0o644)
	}
	b.writeFile(cutHook, "#!/bin/sh\nset -eu\nfor f in "+cutData+"/*; do echo $MACHINEMON_VERSION >$f; done\n"+k.hook, 0o755)
	b.writeTarget(k.target)
	b.installTestd("1.0.0", testdUnit)
	b.must("systemctl", "disable", "--quiet", "--now", "machinemon-fetch@agent.timer", "machinemon-fetch@scaleboxd.timer")
	b.must("systemctl", "start", "paths.target")
	c := &chain{b, k.dir, b.serve(k.dir)}

	publish := c.publishCut(k)
	if k.goesBack || k.deltas { // releases that are installed already
		publish("1.0.0", "")
		c.apply(0, "already current (1.0.0)")
	}
	publish("1.1.0", k.behaviour)
	if k.goesBack {
		c.apply(0, "committed 1.1.0")
	}
	b.ok(os.CopyFS(k.next, os.DirFS(k.dir)))
	c.dir = k.next
	publish(lastCut, "")
	b.powerOff()
	b.ok(b.Sync()) // its file system is still mounted
}

// publishCut returns a function that publishes releases of this kind in c.dir.
func (c *chain) publishCut(k *cutKind) func(version, behaviour string) {
	if k.signed {
		p := newPublisher(c.t)
		c.pin(p)
		return func(version, behaviour string) {
			p.publish(releases.Daemon{Version: version, Behaviour: behaviour})
			c.show(p)
		}
	}
	return func(version, behaviour string) {
		d := releases.Daemon{Version: version, Behaviour: behaviour}
		if k.deltas {
			c.publishDeltas(d)
			return
		}
		files := []releases.File{{Name: "testd", Content: build(c.t, d)}}
		for _, name := range cutTexts {
			files = append(files, releases.File{Name: name, Content: []byte(version + "\n")})
		}
		c.publishFiles(c.dir, version, files...)
	}
}

// A powerCut is what was left of a disk.
type powerCut struct {
	disk *machine.Disk
	at   string
	over bool // the command had said how the update ended
}

// update makes one update, and cuts the power at these moments of it.
func (k *cutKind) update(t *testing.T, moments []int64) (cuts []powerCut) {
	disk, err := k.base.Copy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	began, ended := make(chan struct{}), make(chan struct{})
	var cutting sync.Mutex // a step may be cut while the command ends
	cut := func(at string) {
		cutting.Lock()
		defer cutting.Unlock()
		c := powerCut{at: at, over: isClosed(ended)}
		var err error
		if c.disk, err = disk.Copy(t.Context()); err != nil {
			t.Error(err)
			return
		}
		cuts = append(cuts, c)
	}
	if *powerStep {
		k.steps = 0
		stop, err := disk.Watch(func() {
			if !isClosed(began) || isClosed(ended) {
				return
			}
			if slices.Contains(moments, k.steps) {
				cut(fmt.Sprint("step ", k.steps))
			}
			k.steps++
		})
		if err != nil {
			t.Fatal(err)
		}
		// It is called when the machine, which is made next, is gone.
		t.Cleanup(func() {
			if err := errors.Join(stop(), disk.Remove()); err != nil {
				t.Error(err)
			}
		})
	}
	b := bootOn(t, disk, nil)
	b.serve(k.dir)
	b.ok(b.Sync())

	command := []string{"machinemon-update", "apply", "testd"}
	if k.goesBack {
		command[1] = "rollback"
	}
	start := time.Now()
	close(began)
	process := b.start(command...)
	var result machine.Result
	go func() {
		defer close(ended)
		result, err = process.Wait(t.Context())
		k.took = time.Since(start)
	}()
	if !*powerStep {
		for _, at := range moments {
			<-time.After(time.Duration(at) - time.Since(start))
			cut(time.Since(start).Round(time.Millisecond).String())
		}
	}
	<-ended
	b.ok(err)
	if result.Code != k.exit {
		t.Fatalf("exit status %d, want %d: %s%s", result.Code, k.exit, result.Stdout, result.Stderr)
	}
	b.yank()
	cutting.Lock()
	defer cutting.Unlock()
	if !*powerStep {
		b.ok(disk.Remove())
	}
	return cuts
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// boot boots a machine from what a power cut has left, and returns how far the update had
// come. The machine must run one version, with all files and data of that version, and
// take the next release.
func (k *cutKind) boot(t *testing.T, cut powerCut) (phase string) {
	t.Cleanup(func() {
		if err := cut.disk.Remove(); err != nil {
			t.Error(err)
		}
	})
	b := bootOn(t, cut.disk, func(m *machine.Machine) { phase = cutPhase(m, cut.over) })
	t.Logf("the power went %s", phase)
	b.signed = k.signed
	c := &chain{b, k.next, b.serve(k.next)}
	// What was handed over before the cut goes on after the boot.
	b.ok(machine.WaitFor(t.Context(), "no trial is open", func() bool {
		c.idle()
		_, err := b.Stat(testdJournal)
		return errors.Is(err, fs.ErrNotExist)
	}))
	from, to := "1.0.0", "1.1.0"
	if k.goesBack {
		from, to = to, from
	}
	_, version, err := b.get("/version")
	b.ok(err)
	switch good := k.exit == 0; {
	case version != from && (version != to || !good):
		t.Errorf("version %q runs", version)
	case cut.over && good && version != to:
		t.Errorf("version %s was committed, and %s runs", to, version)
	}
	k.holds(c, version)
	// The next attempt removes what one left that was cut before its trial, or just after it,
	// when the removal had not reached the disk.
	if strings.HasPrefix(phase, cutOpen) {
		k.swept(c)
	}
	c.apply(0, "committed "+lastCut)
	k.holds(c, lastCut)
	k.swept(c)
	if s := c.status(); s.Trial != "" || s.Error != "" {
		t.Errorf("status shows %+v", s)
	}
	return phase
}

// cutOpen begins the phases in which a trial is open.
const cutOpen = "in phase "

// holds fails the test unless the version runs, and all files and data are of it.
func (k *cutKind) holds(c *chain, version string) {
	c.t.Helper()
	// Before the first update the version is not on record.
	if got, want := digest(c.readFile(testdPath)), digest(string(build(c.t, releases.Daemon{Version: version}))); got != want {
		c.t.Errorf("%s has sha256 %s, want %s of %s", testdPath, got, want, version)
	}
	c.awaitTestd(version)
	dirs := []string{}
	if k.withFiles() {
		dirs = append(dirs, cutText)
	}
	if k.withData() {
		dirs = append(dirs, cutData)
	}
	for _, dir := range dirs {
		for _, name := range cutTexts {
			if got := c.readFile(dir + "/" + name); got != version+"\n" {
				c.t.Errorf("%s/%s is %q, want %s", dir, name, got, version)
			}
		}
	}
}

// swept fails the test unless the directories beside the files have only what the record
// of the swapper names, and the spools are empty.
func (k *cutKind) swept(c *chain) {
	c.t.Helper()
	record := ""
	if content, err := c.ReadFile("/var/lib/machinemon-update/swap/testd/status.json"); err == nil {
		record = string(content)
	} else if !errors.Is(err, fs.ErrNotExist) {
		c.t.Error(err)
	}
	for _, dir := range []string{testdSide, cutText + "/.machinemon-update", cutData + "/.machinemon-update"} {
		for _, name := range c.list(dir) {
			if !strings.Contains(record, dir+"/"+name) {
				c.t.Errorf("%s/%s is left over", dir, name)
			}
		}
	}
	for _, role := range []string{"fetch", "verify"} {
		if got := c.list("/var/lib/machinemon-update/" + role + "/testd/ready"); len(got) > 0 {
			c.t.Errorf("the spool of %s holds %q", role, got)
		}
	}
}

// cutPhase returns how far the update had come on a machine that is off.
func cutPhase(m *machine.Machine, over bool) string {
	var j struct{ Phase, Verdict string }
	content, err := m.ReadFile(testdJournal)
	switch {
	case err == nil && json.Unmarshal(content, &j) == nil:
		return strings.TrimSpace(cutOpen + j.Phase + " " + j.Verdict)
	case over:
		return "after the end"
	}
	return "with no trial open"
}

// cutReport counts the cuts by phase.
type cutReport struct {
	mu   sync.Mutex
	seen map[string]int
}

func (r *cutReport) add(phase string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[phase]++
}

func (r *cutReport) total() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, seen := range r.seen {
		n += seen
	}
	return n
}

func (r *cutReport) String() (text string) {
	for _, phase := range slices.Sorted(maps.Keys(r.seen)) {
		text += fmt.Sprintf("%6d %s\n", r.seen[phase], phase)
	}
	return text
}

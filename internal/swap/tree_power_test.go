package swap

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestTreePower cuts the power at each call that matters while a tree is exchanged, on a
// disk of its own: the machine goes on with what was on that disk, without what was only in
// memory. Unlike a kill, this loses what was not synced. After recover, one whole tree is
// there, with what is kept: the new one if the commit is on the disk.
func TestTreePower(t *testing.T) {
	testkit.Slow(t)
	testkit.NeedRoot(t, "it mounts a disk")
	d := newCutDisk(t)
	for _, l := range layouts {
		t.Run(l.name, func(t *testing.T) { cutTree(t, d, l.line, maps.Clone(l.old), maps.Clone(l.new)) })
	}
}

func cutTree(t *testing.T, d *cutDisk, line string, old, new map[string]string) {
	published := maps.Clone(publishedTree)
	for n := range 40 {
		old[fmt.Sprintf("lib/%d/%d", n%10, n)] = fmt.Sprintf("old %d", n)
		name := fmt.Sprintf("lib/%d/%d", n%10, n)
		published[name] = fmt.Sprintf("new %d", n)
		new[name] = published[name]
	}
	offered := func(t *testing.T, r *rig) {
		r.withTree(t, line, old)
		r.offer(t, "a1", "v2", 2, withPublished(release2, "2", published))
	}
	tried := func(finding state.Finding) func(*testing.T, *rig) {
		return func(t *testing.T, r *rig) {
			offered(t, r)
			d.sync(t) // the swap itself must sync what follows
			r.step(t, "swap")
			r.gate(t, "a1", finding, "")
		}
	}
	cuts := 0
	for _, c := range []struct {
		verb    string
		prepare func(*testing.T, *rig)
	}{{"swap", offered}, {"rollback", tried(state.FindingBad)}, {"commit", tried(state.FindingHealthy)}} {
		d.fresh(t)
		r := newRigBelow(t, d.at)
		c.prepare(t, r)
		steps, _ := r.trace(t, c.verb, 1<<20)
		// at is before a rename of the tree or of what is kept, or, of a commit, of the
		// journal and the status; and before the call after it.
		at := map[int]bool{}
		for i, s := range steps {
			if (s.Call == "rename" || s.Call == "symlink") && ((strings.Contains(s.Path+s.To, "/opt/app") || strings.Contains(s.Path+s.To, "/opt/releases")) || c.verb == "commit" && strings.Contains(s.To, "/var/swap/")) {
				at[i+1], at[i+2] = true, true
			}
		}
		for n := range steps {
			if !at[n+1] {
				continue
			}
			cuts++
			d.fresh(t)
			r := newRigBelow(t, d.at)
			c.prepare(t, r)
			if c.verb == "swap" {
				d.sync(t)
			}
			if _, killed := r.trace(t, c.verb, n+1); !killed {
				t.Fatalf("%s has ended before step %d", c.verb, n+1)
			}
			d.cut(t)
			if line == linkLine {
				r.wantWhole(t, old, new)
			}
			r.reboot(t)
			r.step(t, "recover")
			want, program := old, "agent 1"
			if r.last(t).Result == state.ResultCommitted {
				want, program = new, "agent 2"
			}
			r.wantTree(t, want)
			if got := r.installed(t)["bin/agent"].content; got != program {
				t.Errorf("the file beside the tree is %q, want %q", got, program)
			}
			if j, err := r.tree.Journal("agent"); j != nil || err != nil {
				t.Errorf("the trial is open: %v", err)
			}
			if t.Failed() {
				t.Fatalf("the power of %s went before %s", c.verb, strings.ReplaceAll(steps[n].String(), r.dir+"/", ""))
			}
		}
	}
	t.Logf("%d power cuts", cuts)
	if cuts < 10 {
		t.Errorf("only %d power cuts", cuts)
	}
}

// A cutDisk is a disk with ext4 whose power can be cut.
type cutDisk struct {
	dir, at string
	image   string // what is mounted; "" if nothing is
	images  int
}

func newCutDisk(t *testing.T) *cutDisk {
	t.Helper()
	for _, need := range []string{"mkfs.ext4", "mount"} {
		if _, err := exec.LookPath(need); err != nil {
			t.Skip(err)
		}
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(memory, "power")
	d := &cutDisk{dir: dir, at: filepath.Join(dir, "disk")}
	must(t, os.MkdirAll(d.at, 0o755))
	t.Cleanup(func() { must(t, errors.Join(d.unmount(), os.RemoveAll(dir))) })
	useUnits(d.at)
	return d
}

// fresh mounts a new disk.
func (d *cutDisk) fresh(t *testing.T) {
	t.Helper()
	must(t, d.unmount())
	image := d.next()
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 64<<20))
	d.run(t, "mkfs.ext4", "-q", "-b", "4096", "-N", "8192", image)
	d.mount(t, image)
}

// next returns a new name: a loop device may outlive its mount, with what it has cached.
func (d *cutDisk) next() string {
	d.images++
	return filepath.Join(d.dir, fmt.Sprint("image", d.images))
}

func (d *cutDisk) mount(t *testing.T, image string) {
	t.Helper()
	d.run(t, "mount", "-o", "loop", image, d.at)
	d.image = image
}

func (d *cutDisk) unmount() error {
	if d.image == "" {
		return nil
	}
	err := errors.Join(unix.Unmount(d.at, 0), os.Remove(d.image))
	d.image = ""
	return err
}

func (d *cutDisk) sync(t *testing.T) {
	t.Helper()
	f, err := os.Open(d.at)
	must(t, err)
	defer f.Close()
	must(t, unix.Syncfs(int(f.Fd())))
}

// cut keeps only what has reached the disk.
func (d *cutDisk) cut(t *testing.T) {
	t.Helper()
	cut := d.next()
	d.run(t, "cp", "--sparse=always", d.image, cut)
	must(t, d.unmount())
	d.mount(t, cut)
}

func (d *cutDisk) run(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", argv, err, out)
	}
}

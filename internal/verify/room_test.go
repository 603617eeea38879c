package verify

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestSmallDisk verifies a release on a disk that has room for two archives, or for one
// and what is unpacked from it, and not for two and that.
func TestSmallDisk(t *testing.T) {
	testkit.NeedRoot(t, "it mounts a small file system")
	b := newBench(t)
	b.tree.Var = filepath.Join(b.root, "disk")
	testkit.Must(t, os.MkdirAll(b.tree.Var, 0o755))
	testkit.Must(t, unix.Mount("tmpfs", b.tree.Var, "tmpfs", 0, "mode=755,size=10m"))
	t.Cleanup(func() { testkit.Must(t, unix.Unmount(b.tree.Var, unix.MNT_DETACH)) })
	for _, r := range []state.Role{state.RoleFetch, state.RoleVerify} {
		testkit.Must(t, os.MkdirAll(b.tree.Dir(r, "agent"), 0o755))
	}
	noise := make([]byte, 4<<20) // it does not compress
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	b.bundle.content["agent-v2"] += string(noise)
	b.bundle.repack(t)
	b.bundle.platform(func(p *manifest.Platform) {
		if need := 2*p.Size + p.UnpackedSize; need < 12<<20 || p.Size+p.UnpackedSize > 9<<20 {
			t.Fatalf("the archive has %d bytes", p.Size)
		}
	})
	b.hand(t)
	if a := b.run(t); a.Result != state.ResultHandedOn {
		t.Errorf("%s: %s", a.Result, a.Reason)
	}
}

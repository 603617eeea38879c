package state

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// flood makes n hidden files in a directory.
func flood(t *testing.T, dir string, n int) {
	t.Helper()
	for i := range n {
		must(t, os.WriteFile(fmt.Sprintf("%s/.flood%d", dir, i), nil, 0o600))
	}
}

// TestClaimByLink checks that the consumer takes the entry that the producer's link leads
// to, or what a producer without links handed on, and that no link is left in sight.
func TestClaimByLink(t *testing.T) {
	for name, c := range map[string]struct {
		link func(at string) error
		want AttemptID
	}{
		"no link, as of an earlier version": {func(string) error { return nil }, "a2"},
		"a link to an older entry":          {func(at string) error { return os.Symlink("a1", at) }, "a1"},
		"a link to nothing":                 {func(at string) error { return os.Symlink("a9", at) }, "a2"},
		"a link out":                        {func(at string) error { return os.Symlink("/etc", at) }, "a2"},
		"a link to the directory above":     {func(at string) error { return os.Symlink("..", at) }, "a2"},
		"a link to itself":                  {func(at string) error { return os.Symlink(nextLink, at) }, "a2"},
		"a file":                            {func(at string) error { return os.WriteFile(at, nil, 0o600) }, "a2"},
		"a FIFO":                            {func(at string) error { return unix.Mkfifo(at, 0o600) }, "a2"},
		"a full directory":                  {func(at string) error { return os.MkdirAll(at+"/x/y", 0o700) }, "a2"},
	} {
		t.Run(name, func(t *testing.T) {
			tree := newTree(t)
			ready := tree.Ready(RoleFetch, "agent")
			must(t, os.MkdirAll(ready+"/a1", 0o770))
			must(t, os.Mkdir(ready+"/a2", 0o770))
			must(t, c.link(filepath.Join(ready, nextLink)))
			within(t, func() {
				attempt, entry, err := tree.Claim(RoleFetch, "agent")
				if err != nil || attempt != c.want {
					t.Fatalf("claimed %q, %v; want %q", attempt, err, c.want)
				}
				pending(t, tree, false)
				must(t, entry.Consume())
			})
			if left := names(t, ready); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// TestFloodedSpool checks that a producer that was taken over makes nothing slow with any
// number of names: the consumer looks at a thousand, and root removes the spool as a whole.
func TestFloodedSpool(t *testing.T) {
	testkit.Slow(t)
	const many = 20_000
	tree := newTree(t)
	must(t, tree.HandOn(RoleFetch, "agent", "a1", func(b *Bundle) error { return b.write("payload", nil) }))
	ready := tree.Ready(RoleFetch, "agent")
	flood(t, ready, many)
	pending(t, tree, true)
	attempt, entry, err := tree.Claim(RoleFetch, "agent")
	if err != nil || attempt != "a1" {
		t.Fatalf("claimed %q, %v", attempt, err)
	}
	must(t, entry.Consume())
	if left := len(names(t, ready)); left < many-mostListed {
		t.Errorf("the consumer has removed %d names", many-left)
	}
	pending(t, tree, false)
	foreign, err := tree.Clear(RoleFetch, "agent")
	must(t, err)
	if said := strings.Join(foreign, ", "); !strings.Contains(said, "ready/.flood") || !strings.Contains(said, fmt.Sprintf("and %d more", mostListed-mostNamed)) {
		t.Errorf("said: %s", said)
	}
	if _, err := os.Lstat(ready); !os.IsNotExist(err) {
		t.Errorf("the spool is still there: %v", err)
	}
}

// TestClearEnds checks that root does not remove names for ever, and that what a role needs
// does not wait for that.
func TestClearEnds(t *testing.T) {
	testkit.Slow(t)
	defer func(d time.Duration) { clearFor = d }(clearFor)
	clearFor = -1
	tree := newTree(t)
	dir := tree.Dir(RoleFetch, "agent")
	must(t, os.MkdirAll(dir+"/ready/a1", 0o770))
	flood(t, dir, 3000)
	for _, name := range append(append([]string{}, lasting[RoleFetch]...), "fallback.json", handoverName) {
		must(t, os.MkdirAll(filepath.Join(dir, name, "x"), 0o700))
	}
	_, err := tree.Clear(RoleFetch, "agent")
	wantError(t, err, "cannot clear "+dir, "other names are still there after ")
	for _, name := range names(t, dir) {
		if !strings.HasPrefix(name, ".flood") {
			t.Errorf("left: %s", name)
		}
	}
	clearFor = time.Minute
	_, err = tree.Clear(RoleFetch, "agent")
	must(t, err)
	if left := names(t, dir); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

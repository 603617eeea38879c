package swap

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// linkLine stands for the line of a target file that makes a tree one of several, to which
// a link leads. See withTree.
const linkLine = "releases"

// unlinked returns the directories of releases to which the link does not lead.
func (r *rig) unlinked(t *testing.T) (dirs []string) {
	t.Helper()
	entries, err := os.ReadDir(r.at("opt/releases"))
	if !errors.Is(err, fs.ErrNotExist) {
		must(t, err)
	}
	linked, _ := filepath.EvalSymlinks(r.at("opt/app"))
	for _, e := range entries {
		if dir := filepath.Join(r.at("opt/releases"), e.Name()); e.Name() != sideName && dir != linked {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// wantLinks checks where the link leads, and which other releases are there.
func (r *rig) wantLinks(t *testing.T, current string, others ...string) {
	t.Helper()
	if got, err := os.Readlink(r.at("opt/app")); got != current {
		t.Errorf("the link is %q, %v, want %q", got, err, current)
	}
	for i := range others {
		others[i] = r.at("opt/releases/" + others[i])
	}
	if got := r.unlinked(t); !slices.Equal(got, others) {
		t.Errorf("there are the releases %q, want %q", got, others)
	}
}

// wantWhole checks that the link, if it is there, leads to one of these trees.
func (r *rig) wantWhole(t *testing.T, trees ...map[string]string) {
	t.Helper()
	if _, err := os.Lstat(r.at("opt/app")); errors.Is(err, fs.ErrNotExist) {
		return
	}
	got := treeFiles(t, r.at("opt/app"))
	if !slices.ContainsFunc(trees, func(tree map[string]string) bool { return maps.Equal(got, tree) }) {
		t.Errorf("the link leads to %q", got)
	}
}

// update takes a release with a tree to its commit.
func (r *rig) update(t *testing.T, attempt state.AttemptID, version string, sequence int64, files map[string]string) {
	t.Helper()
	r.offer(t, attempt, version, sequence, files)
	r.step(t, "swap")
	r.gate(t, attempt, state.FindingHealthy, "")
	r.step(t, "commit")
	r.ended(t, attempt, state.ResultCommitted)
	r.closed(t)
}

// TestLink installs each release in a directory of its own. Of these, the one that runs
// and the previous one stay.
func TestLink(t *testing.T) {
	testkit.Slow(t)
	r := newRig(t)
	r.withTree(t, linkLine, oldTreeFiles)
	before := r.treeIno(t)
	r.offer(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
	r.sys.calls = nil
	r.step(t, "swap")
	r.wantTree(t, publishedTree)
	r.wantLinks(t, "releases/v2", "v1") // while the trial is open
	if r.sys.called("stop agent.service") != 0 {
		t.Errorf("the unit was stopped: %q", r.sys.calls)
	}
	r.gate(t, "a1", state.FindingHealthy, "")
	r.step(t, "commit")
	r.closed(t)
	r.wantLinks(t, "releases/v2", "v1")
	if got := treeFiles(t, r.at("opt/releases/v1")); !maps.Equal(got, oldTreeFiles) {
		t.Errorf("the old tree has %q", got)
	}

	// Somebody has unpacked the next release there.
	must(t, os.Mkdir(r.at("opt/releases/v3"), 0o755))
	third := withPublished(release4, "3", map[string]string{"bin/tool": "#!/bin/sh\necho 3\n"})
	r.offer(t, "a2", "v3", 3, third)
	r.step(t, "swap")
	r.wantLinks(t, "releases/v3.2", "v1", "v2", "v3")
	r.gate(t, "a2", state.FindingHealthy, "")
	r.step(t, "commit")
	r.wantLinks(t, "releases/v3.2", "v2", "v3")
	must(t, os.Remove(r.at("opt/releases/v3")))
	r.closed(t)
	if r.treeIno(t) == before {
		t.Error("the new tree is in the old directory")
	}

	// The operator goes back to the directory that was kept, without a copy.
	kept := ino(t, r.at("opt/releases/v2"))
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
	must(t, look(r.tree, state.Baseline{Attempt: "b1", Standing: true}))
	r.step(t, "swap")
	r.wantLinks(t, "releases/v2", "v3.2")
	r.gate(t, "b1", state.FindingHealthy, "")
	r.step(t, "commit")
	r.wantLinks(t, "releases/v2")
	r.wantTree(t, publishedTree)
	r.closed(t)
	if r.treeIno(t) != kept {
		t.Error("going back has made a copy")
	}
	// A release with the same files as the one that runs, beside another program.
	r.update(t, "a3", "v5", 5, withPublished(map[string]string{"agent": "agent 5", "agent.service": "unit 2"}, "5", publishedTree))
	r.wantLinks(t, "releases/v5", "v2")
}

// TestLinkGoesBack rolls a trial back, with and without a release before it.
func TestLinkGoesBack(t *testing.T) {
	for _, old := range []map[string]string{oldTreeFiles, nil} {
		r := newRig(t)
		r.withTree(t, linkLine, old)
		r.offer(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
		r.step(t, "swap")
		r.wantTree(t, publishedTree)
		r.gate(t, "a1", state.FindingBad, "it is bad")
		r.step(t, "rollback")
		r.ended(t, "a1", state.ResultRolledBack)
		r.want(t, oldFiles)
		r.closed(t)
		if old != nil {
			r.wantTree(t, old)
			r.wantLinks(t, "releases/v1")
			continue
		}
		if _, err := os.Lstat(r.at("opt/app")); !os.IsNotExist(err) || len(r.unlinked(t)) > 0 {
			t.Errorf("there is a link, or %q: %v", r.unlinked(t), err)
		}
	}
}

// TestLinkByOthers shows what becomes of a link that somebody else changed. Nothing that
// it leads to is removed.
func TestLinkByOthers(t *testing.T) {
	testkit.Slow(t)
	point := func(t *testing.T, r *rig, to string) {
		must(t, os.Remove(r.at("opt/app")))
		must(t, os.Symlink(to, r.at("opt/app")))
	}
	t.Run("during the trial", func(t *testing.T) {
		r := newRig(t)
		r.withTree(t, linkLine, oldTreeFiles)
		r.offer(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
		r.step(t, "swap")
		must(t, os.Mkdir(r.at("opt/releases/mine"), 0o755))
		point(t, r, "releases/mine")
		r.gate(t, "a1", state.FindingBad, "it is bad")
		r.fails(t, "rollback", state.ResultRollbackFailed, "another file was put there since, and stays")
		r.wantLinks(t, "releases/mine", "v1", "v2")
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbSettleBack}))
		r.step(t, "rollback")
		r.wantLinks(t, "releases/v1", "mine")
		if got, err := os.Readlink(r.at("opt/app.aside-a1")); got != "releases/mine" {
			t.Errorf("the link of somebody else is %q now: %v", got, err)
		}
	})
	t.Run("before the trial has placed its own", func(t *testing.T) {
		r := newRig(t)
		r.withTree(t, linkLine, oldTreeFiles)
		must(t, os.Mkdir(r.at("opt/releases/mine"), 0o755))
		r.sys.on["arm machinemon-deadline@agent.timer"] = func() { point(t, r, "releases/mine") }
		r.offer(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
		r.fails(t, "swap", state.ResultFailed, "another link was put there meanwhile")
		r.wantLinks(t, "releases/mine", "v1")
	})
	t.Run("to the old release, before the commit", func(t *testing.T) {
		r := newRig(t)
		r.withTree(t, linkLine, oldTreeFiles)
		r.update(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
		point(t, r, r.at("opt/releases/v1")) // an absolute one
		r.offer(t, "a2", "v4", 4, withPublished(release4, "4", map[string]string{"bin/tool": "4"}))
		r.step(t, "swap")
		r.wantLinks(t, "releases/v4", "v1", "v2")
		r.gate(t, "a2", state.FindingHealthy, "")
		r.step(t, "commit")
		r.wantLinks(t, "releases/v4", "v1", "v2") // v2 was not replaced by this update
	})
	t.Run("to the kept release, which is given up", func(t *testing.T) {
		r := newRig(t)
		r.withTree(t, linkLine, oldTreeFiles)
		r.update(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
		prev := r.status(t).Previous
		point(t, r, "releases/v1")
		must(t, r.sw.dropPrevious("agent", prev))
		r.wantLinks(t, "releases/v1", "v2")
		point(t, r, "releases/v2")
		must(t, r.sw.dropPrevious("agent", prev))
		r.wantLinks(t, "releases/v2")
		if got := r.beside(t); len(got) > 0 {
			t.Errorf("beside the installed files are %q", got)
		}
	})
}

// TestLinkRefused shows which links are refused. Nothing has changed then.
func TestLinkRefused(t *testing.T) {
	testkit.Slow(t)
	for _, row := range []struct {
		name, to string
		prepare  func(*testing.T, *rig)
		words    string
	}{
		{"elsewhere", "other", func(t *testing.T, r *rig) { must(t, os.Mkdir(r.at("opt/other"), 0o755)) }, "opt/other, which is not directly below "},
		{"below a release", "releases/v1/bin", nil, "opt/releases/v1/bin, which is not directly below "},
		{"a file", "releases/file", func(t *testing.T, r *rig) { must(t, os.WriteFile(r.at("opt/releases/file"), nil, 0o644)) }, "opt/releases/file: not a directory"},
		{"nothing", "releases/none", nil, "opt/releases/none: no such file or directory (hint: correct or remove the link)"},
		{"no link", "", func(t *testing.T, r *rig) { must(t, os.Mkdir(r.at("opt/app"), 0o755)) }, "is not a symlink (hint: move it to "},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(t)
			r.withTree(t, linkLine, oldTreeFiles)
			must(t, os.Remove(r.at("opt/app")))
			if row.to != "" {
				must(t, os.Symlink(row.to, r.at("opt/app")))
			}
			if row.prepare != nil {
				row.prepare(t, r)
			}
			r.offer(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
			r.fails(t, "swap", state.ResultMisconfigured, row.words)
			r.want(t, oldFiles)
			if got, _ := os.Readlink(r.at("opt/app")); got != row.to {
				t.Errorf("the link is %q now", got)
			}
		})
	}
}

// treeIno returns the inode number of the tree that is in place.
func (r *rig) treeIno(t *testing.T) uint64 {
	t.Helper()
	dir, err := filepath.EvalSymlinks(r.at("opt/app"))
	must(t, err)
	return ino(t, dir)
}

func ino(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	return info.Sys().(*syscall.Stat_t).Ino
}

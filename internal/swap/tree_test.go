package swap

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/machinemon/machinemon-update/internal/dirtree"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// These are the trees of target agent: before release v2, of v2 as published, and as
// installed. The data and the operator's configuration are kept. The program writes seen.
var (
	oldTreeFiles = map[string]string{"bin/tool": "#!/bin/sh\necho 1\n", "share/a": "a 1", "share/gone": "gone",
		"conf/custom.ini": "mine", "data/db": "precious"}
	publishedTree = map[string]string{"bin/tool": "#!/bin/sh\necho 2\n", "share/a": "a 2", "share/deep/new": "new",
		"conf/custom.ini": "default", "conf/base.ini": "base"}
	newTreeFiles = map[string]string{"bin/tool": "#!/bin/sh\necho 2\n", "share/a": "a 2", "share/deep/new": "new",
		"conf/custom.ini": "mine", "conf/base.ini": "base", "data/db": "precious"}
)

const keepLine = `keep = ["data", "conf/custom.ini"]`

// layouts are the ways to install a tree, with the trees before and after release v2.
var layouts = []struct {
	name, line string
	old, new   map[string]string
}{
	{"exchanged", keepLine, oldTreeFiles, newTreeFiles},
	// The program writes its data elsewhere: a directory that it has changed is not gone back to.
	{"linked", linkLine, map[string]string{"bin/tool": oldTreeFiles["bin/tool"], "share/gone": "gone"}, publishedTree},
}

// withTree adds a tree to the target, which is installed already if there are files.
func (r *rig) withTree(t *testing.T, keep string, files map[string]string) {
	t.Helper()
	must(t, os.MkdirAll(r.at("opt"), 0o755))
	if keep == linkLine {
		keep = fmt.Sprintf("releases = %q", r.at("opt/releases"))
		must(t, os.MkdirAll(r.at("opt/releases/v1"), 0o755))
		if files == nil {
			must(t, os.Remove(r.at("opt/releases/v1")))
		} else {
			must(t, os.Symlink("releases/v1", r.at("opt/app")))
		}
	}
	r.configure(t, fmt.Sprintf("[[install]]\nfrom = 'app-{number}/'\nto = %q\n%s\n", r.at("opt/app"), keep))
	for name, content := range files {
		path := r.at("opt/app/" + name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(content), 0o644))
	}
	if files["data/db"] != "" {
		must(t, os.Chown(r.at("opt/app/data"), 12, 12))
	}
}

// withPublished returns the files of a release with a tree.
func withPublished(release map[string]string, number string, tree map[string]string) map[string]string {
	all := maps.Clone(release)
	for name, content := range tree {
		all["app-"+number+"/"+name] = content
	}
	return all
}

func offerTree(t *testing.T, r *rig) {
	r.withTree(t, keepLine, oldTreeFiles)
	r.offer(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
}

// treeFiles returns the contents of a tree, without what the program writes.
func treeFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	if to, err := filepath.EvalSymlinks(dir); err == nil {
		dir = to
	}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "seen" || d.Name() == ".next.link" { // to a bundle that was not taken
			return err
		}
		content, err := os.ReadFile(path)
		if d.Type()&fs.ModeSymlink != 0 {
			var to string
			to, err = os.Readlink(path)
			content = []byte(to)
		}
		files[strings.TrimPrefix(path, dir+"/")] = string(content)
		return err
	}))
	return files
}

func (r *rig) wantTree(t *testing.T, want map[string]string) {
	t.Helper()
	if got := treeFiles(t, r.at("opt/app")); !maps.Equal(got, want) {
		t.Errorf("the tree is\n%q, want\n%q", got, want)
	}
	if want["data/db"] == "" {
		return
	}
	info, err := os.Lstat(r.at("opt/app/data"))
	must(t, err)
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 12 {
		t.Errorf("the data belong to user %d now", uid)
	}
}

func TestTree(t *testing.T) {
	r := newRig(t)
	offerTree(t, r)
	before, err := os.Lstat(r.at("opt/app"))
	must(t, err)
	r.sys.calls = nil
	r.step(t, "swap")
	r.wantTree(t, newTreeFiles)
	if r.sys.called("stop agent.service") != 1 {
		t.Errorf("the unit was not stopped before the data moved: %q", r.sys.calls)
	}
	r.gate(t, "a1", state.FindingHealthy, "")
	r.step(t, "commit")
	r.want(t, newFiles)
	r.wantTree(t, newTreeFiles)
	r.closed(t)
	for name, want := range map[string]fs.FileMode{"": 0o755 | fs.ModeDir, "bin": 0o755 | fs.ModeDir, "bin/tool": 0o755, "share/a": 0o644, "share/deep": 0o755 | fs.ModeDir} {
		info, err := os.Lstat(r.at("opt/app/" + name))
		must(t, err)
		if st := info.Sys().(*syscall.Stat_t); info.Mode() != want || st.Uid != 0 || st.Gid != 0 {
			t.Errorf("%q has mode %v and owner %d:%d", name, info.Mode(), st.Uid, st.Gid)
		}
	}
	installed := r.status(t).Installed.File(r.at("opt/app"))
	listed := map[string]string{} // as the fetcher computes it from the manifest
	for name, content := range publishedTree {
		listed[name] = sum(content)
	}
	if want := dirtree.Sum(listed, installed.Tree.Keep); installed.SHA256 != want {
		t.Errorf("the digest is %s, of the manifest's contents %s", installed.SHA256, want)
	}
	for _, c := range []struct {
		name, content string
		same          bool
	}{{"data/db", "precious, too", true}, {"share/a", "by hand", false}, {"share/a", "a 2", true}, {"share/more", "", false}} {
		must(t, os.WriteFile(r.at("opt/app/"+c.name), []byte(c.content), 0o644))
		if installed.Same() != c.same {
			t.Errorf("with %q in %s, it counts as unchanged: %v", c.content, c.name, !c.same)
		}
	}
	must(t, os.Remove(r.at("opt/app/share/more")))
	previous := r.status(t).Previous.File(r.at("opt/app"))
	if info, err := os.Lstat(previous.Backup); err != nil || !os.SameFile(info, before) {
		t.Errorf("the old tree is not the previous release: %v", err)
	}
	if got := treeFiles(t, previous.Backup); len(got) != 3 {
		t.Errorf("the old tree has %q: what is kept must be in one place", got)
	}

	// The operator goes back: the data come along as they are now.
	must(t, os.WriteFile(r.at("opt/app/data/db"), []byte("more"), 0o600))
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
	must(t, look(r.tree, state.Baseline{Attempt: "b1", Standing: true}))
	r.step(t, "swap")
	want := maps.Clone(oldTreeFiles)
	want["data/db"] = "more"
	r.wantTree(t, want)
	r.gate(t, "b1", state.FindingHealthy, "")
	r.step(t, "commit")
	r.wantTree(t, want)
	r.closed(t)
	if info, err := os.Lstat(r.at("opt/app")); err != nil || !os.SameFile(info, before) {
		t.Errorf("going back did not put the old tree itself in place: %v", err)
	}
}

func TestTreeRollsBack(t *testing.T) {
	testkit.Slow(t)
	for _, c := range []struct {
		name, keep string
		old        map[string]string
	}{
		{"with data", keepLine, oldTreeFiles},
		{"nothing kept", "", oldTreeFiles},
		{"nothing there to keep", keepLine, map[string]string{"share/a": "a 1"}},
		{"first installation", keepLine, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.withTree(t, c.keep, c.old)
			r.offer(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
			r.sys.calls = nil
			r.step(t, "swap")
			if stopped := r.sys.called("stop agent.service"); (stopped > 0) != (c.name == "with data") {
				t.Errorf("the unit was stopped %d times before the exchange", stopped)
			}
			must(t, os.WriteFile(r.at("opt/app/share/written"), []byte("by the new program"), 0o600))
			r.gate(t, "a1", state.FindingBad, "it is bad")
			r.step(t, "rollback")
			r.ended(t, "a1", state.ResultRolledBack)
			r.want(t, oldFiles)
			r.closed(t)
			if c.old == nil {
				if _, err := os.Lstat(r.at("opt/app")); !os.IsNotExist(err) {
					t.Errorf("the tree of the refused release is there: %v", err)
				}
				return
			}
			r.wantTree(t, map[string]map[string]string{"": oldTreeFiles, keepLine: c.old}[c.keep])
		})
	}
}

// TestTreeGoesForth: a bad kept tree makes room again for the one that it replaced.
func TestTreeGoesForth(t *testing.T) {
	r := newRig(t)
	r.withTree(t, keepLine, oldTreeFiles)
	r.installs(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
	must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
	r.step(t, "swap")
	r.gate(t, "b1", state.FindingBad, "it is bad")
	r.step(t, "rollback")
	r.ended(t, "b1", state.ResultRolledBack)
	r.wantTree(t, newTreeFiles)
	r.closed(t)
}

// TestTreeWithoutContents: without the manifest's contents the verifier's word counts, as for
// single files.
func TestTreeWithoutContents(t *testing.T) {
	r := newRig(t)
	r.withTree(t, "", oldTreeFiles)
	must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Origin: state.OriginOperator, Verb: state.VerbApply, Installed: "v1"}))
	must(t, look(r.tree, state.Baseline{Attempt: "a1", Standing: true}))
	r.spool(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree), func(_ string, m *manifest.Manifest) {
		p := m.Platforms[manifest.Host()]
		p.Contents = nil
		m.Platforms[manifest.Host()] = p
	})
	r.step(t, "swap")
	r.wantTree(t, publishedTree)
}

// TestTreeByOthers: what others do in the place of a tree, before and during its trial.
func TestTreeByOthers(t *testing.T) {
	t.Run("what is kept is made before the exchange", func(t *testing.T) {
		r := newRig(t)
		r.withTree(t, keepLine, map[string]string{"share/a": "a 1"})
		r.offer(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
		r.sys.on["arm machinemon-deadline@agent.timer"] = func() { must(t, os.Mkdir(r.at("opt/app/data"), 0o755)) }
		r.fails(t, "swap", state.ResultFailed, "data, which is kept, was made or removed meanwhile")
		r.step(t, "rollback")
		r.wantTree(t, map[string]string{"share/a": "a 1"})
		r.closed(t)
	})
	t.Run("the new tree is removed", func(t *testing.T) {
		for _, old := range []map[string]string{{"share/a": "a 1"}, nil} {
			r := newRig(t)
			r.withTree(t, "", old)
			r.offer(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
			r.step(t, "swap")
			must(t, os.RemoveAll(r.at("opt/app")))
			r.gate(t, "a1", state.FindingBad, "it is bad")
			r.step(t, "rollback")
			r.closed(t)
			if old != nil {
				r.wantTree(t, old)
			} else if _, err := os.Lstat(r.at("opt/app")); !os.IsNotExist(err) {
				t.Errorf("a tree is there: %v", err)
			}
		}
	})
	t.Run("the kept tree was changed", func(t *testing.T) {
		r := newRig(t)
		r.withTree(t, "", oldTreeFiles)
		r.installs(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
		kept := r.status(t).Previous.File(r.at("opt/app")).Backup
		must(t, os.WriteFile(filepath.Join(kept, "share/a"), []byte("by hand"), 0o644))
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
		r.fails(t, "swap", state.ResultRefused, "cannot go back: the backup "+kept+" was changed")
		r.wantTree(t, publishedTree)
	})
}

// TestSpare: a tree that still has something that is kept is not removed with the trial.
func TestSpare(t *testing.T) {
	for _, c := range []struct {
		name, makes string
		aside       bool
		fails       string
	}{
		{"none of it", "", false, ""},
		{"the second of two", "staged/conf/custom.ini", true, ""},
		{"what cannot be read", "staged/conf", false, "cannot move "},
	} {
		r := newRig(t)
		staged, aside := r.at("opt/staged"), r.at("opt/app.aside-a1")
		must(t, os.MkdirAll(r.at("opt/app"), 0o755))
		must(t, os.MkdirAll(staged, 0o755))
		if c.fails != "" {
			must(t, os.WriteFile(r.at("opt/"+c.makes), nil, 0o600))
		} else if c.makes != "" {
			must(t, os.MkdirAll(r.at("opt/"+c.makes), 0o755))
		}
		err := r.sw.spare(&state.Journal{Target: "agent", Attempt: "a1", Changes: []state.Change{{Kind: state.KindReplace, To: r.at("bin/agent")},
			{Kind: state.KindReplace, To: r.at("opt/app"), Staged: staged, Tree: &state.TreeChange{Kept: []string{"data", "conf/custom.ini"}}}}})
		if (err != nil) != (c.fails != "") || err != nil && !strings.HasPrefix(err.Error(), c.fails) {
			t.Errorf("%s: %v", c.name, err)
		}
		for path, want := range map[string]bool{staged: !c.aside, aside: c.aside, aside + "/conf/custom.ini": c.aside} {
			if _, err := os.Lstat(path); (err == nil) != want {
				t.Errorf("%s: %s: %v", c.name, path, err)
			}
		}
	}
}

// TestTreeKilled is TestKilled for a release with a tree: a kill or a power cut between any
// two calls leaves one whole tree with all that is kept. TestKilled kills before the other
// calls, which are the same for a tree.
func TestTreeKilled(t *testing.T) {
	testkit.Slow(t)
	for _, l := range layouts {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			killTree(t, l.line, l.old, l.new)
		})
	}
}

func killTree(t *testing.T, line string, old, new map[string]string) {
	offer := func(t *testing.T, r *rig) {
		r.withTree(t, line, old)
		r.offer(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
	}
	good := func(t *testing.T, r *rig) {
		offer(t, r)
		r.step(t, "swap")
		r.gate(t, "a1", state.FindingHealthy, "")
	}
	bad := func(t *testing.T, r *rig) {
		offer(t, r)
		r.step(t, "swap")
		r.gate(t, "a1", state.FindingBad, "it is bad")
	}
	back := func(t *testing.T, r *rig) {
		good(t, r)
		r.step(t, "commit")
		must(t, r.tree.SetRequest("agent", state.Request{Attempt: "b1", Verb: state.VerbRollback}))
	}
	first := func(t *testing.T, r *rig) {
		r.withTree(t, line, nil)
		r.offer(t, "a1", "v2", 2, withPublished(release2, "2", publishedTree))
	}
	for _, c := range []struct {
		name       string
		prepare    func(*testing.T, *rig)
		verb, then string
		want       map[string]string // nil: there is no tree
	}{
		{"swap, then its failure handler", offer, "swap", "rollback", old},
		{"swap, then a boot", offer, "swap", "recover", old},
		{"first swap, then a boot", first, "swap", "recover", nil},
		{"rollback, then again", bad, "rollback", "rollback", old},
		{"rollback, then a boot", bad, "rollback", "recover", old},
		{"commit, then again", good, "commit", "commit", new},
		{"going back, then its failure handler", back, "swap", "rollback", new},
		{"going back, then a boot", back, "swap", "recover", new},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRigBelow(t, memory)
			c.prepare(t, r)
			all, _ := r.trace(t, c.verb, 1<<20)
			mine := func(s durableStep) bool {
				return s.Call == "symlink" || s.Call == "rename" && (strings.Contains(s.Path+s.To, "/opt/") || strings.HasSuffix(s.To, "journal.json")) ||
					s.Call == "unlink" && (strings.HasSuffix(s.Path, "journal.json") || strings.HasSuffix(s.Path, ".tree") || strings.HasSuffix(s.Path, ".gone"))
			}
			seen := 0
			for i := range all {
				if !mine(all[i]) {
					continue
				}
				seen++
				r := newRigBelow(t, memory)
				c.prepare(t, r)
				before := r.installed(t)["bin/agent"]
				steps, killed := r.trace(t, c.verb, i+1)
				if !killed {
					t.Fatalf("it has ended before step %d", i+1)
				}
				if line == linkLine {
					r.wantWhole(t, old, new)
				}
				j, err := r.tree.Journal("agent")
				must(t, err)
				if c.then == "recover" {
					r.reboot(t)
				}
				r.step(t, c.then)
				if c.want != nil {
					r.wantTree(t, c.want)
				} else if _, err := os.Lstat(r.at("opt/app")); !os.IsNotExist(err) {
					t.Errorf("there is a tree: %v", err)
				}
				if got := r.installed(t)["bin/agent"]; c.verb == "swap" && got != before {
					t.Errorf("the tree and the file are of two releases: %v", got)
				}
				if j != nil {
					r.closed(t)
				}
				once := treeFiles(t, r.dir)
				r.step(t, c.then)
				if again := treeFiles(t, r.dir); !reflect.DeepEqual(again, once) {
					t.Errorf("the second %s made other files", c.then)
				}
				if t.Failed() {
					t.Fatalf("killed before %s", strings.ReplaceAll(steps[i].String(), r.dir+"/", ""))
				}
			}
			if seen < 3 {
				t.Errorf("only %d calls were seen: %q", seen, all)
			}
		})
	}
}

// TestTreeRefused shows what a tree is refused for. Nothing has changed then.
func TestTreeRefused(t *testing.T) {
	testkit.Slow(t)
	with := func(name, content string) map[string]string {
		files := withPublished(release2, "2", publishedTree)
		files[name] = content
		return files
	}
	for _, c := range []struct {
		name    string
		keep    string
		prepare func(*testing.T, *rig)
		files   map[string]string
		change  func(entry string, m *manifest.Manifest)
		result  state.Result
		words   string
	}{
		{"not listed", keepLine, nil, with("app-2/evil", "x"), func(_ string, m *manifest.Manifest) {
			delete(m.Platforms[manifest.Host()].Contents, "app-2/share/a")
			m.Platforms[manifest.Host()].Contents["app-2/share/b"] = manifest.Content{SHA256: sum("a 2"), Size: 3}
		}, state.ResultRefused, "cannot find app-2/share/b in the release"},
		{"other bytes", keepLine, nil, with("app-2/share/a", "a 2"), func(entry string, m *manifest.Manifest) {
			m.Platforms[manifest.Host()].Contents["app-2/share/a"] = manifest.Content{SHA256: sum("b 2"), Size: 3}
		}, state.ResultRefused, "cannot install app-2/share/a: its sha256 is"},
		{"leads out", keepLine, nil, with("app-2/../../x", "x"), func(_ string, m *manifest.Manifest) {
			p := m.Platforms[manifest.Host()]
			p.Contents = nil
			m.Platforms[manifest.Host()] = p
		}, state.ResultRefused, "no plain path"},
		{"no such directory", keepLine, nil, release2, nil, state.ResultRefused, "cannot find app-2/ in the release"},
		{"others can write beside what is kept", keepLine, func(t *testing.T, r *rig) { must(t, os.Chmod(r.at("opt/app/conf"), 0o777)) },
			with("app-2/a", "a"), nil, state.ResultMisconfigured, "keep that directory as a whole"},
		{"a file is there", keepLine, func(t *testing.T, r *rig) {
			must(t, os.RemoveAll(r.at("opt/app")))
			must(t, os.WriteFile(r.at("opt/app"), nil, 0o755))
		}, with("app-2/a", "a"), nil, state.ResultMisconfigured, "opt/app is not a directory"},
		{"a FIFO is there", keepLine, func(t *testing.T, r *rig) { must(t, syscall.Mkfifo(r.at("opt/app/pipe"), 0o600)) },
			with("app-2/a", "a"), nil, state.ResultMisconfigured, "pipe: it is neither a file"},
		{"a file in the place of a kept one's directory", `keep = ["share/deep/kept"]`, func(t *testing.T, r *rig) {
			must(t, os.MkdirAll(r.at("opt/app/share/deep/kept"), 0o755))
		}, map[string]string{"agent": "agent 2", "agent.service": "unit 2", "app-2/share/deep": "a file"}, nil, state.ResultFailed, "not a directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.withTree(t, c.keep, oldTreeFiles)
			if c.prepare != nil {
				c.prepare(t, r)
			}
			must(t, r.tree.SetOrder("agent", state.Order{Attempt: "a1", Origin: state.OriginOperator, Verb: state.VerbApply, Installed: "v1"}))
			must(t, look(r.tree, state.Baseline{Attempt: "a1", Standing: true}))
			r.spool(t, "a1", "v2", 2, c.files, c.change)
			r.fails(t, "swap", c.result, c.words)
			r.want(t, oldFiles)
			if got := r.beside(t); len(got) > 0 {
				t.Errorf("beside the installed files are %q", got)
			}
			if r.sys.called("restart agent.service")+r.sys.called("stop agent.service") > 0 {
				t.Errorf("the unit was touched: %q", r.sys.calls)
			}
		})
	}
}

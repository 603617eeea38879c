package state

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// newTree makes an empty tree with the directories that units and tmpfiles.d make for
// target agent.
func newTree(t *testing.T) Tree {
	t.Helper()
	v, run := testkit.Tree(t)
	return Tree{Var: v, Run: run}
}

var (
	must   = testkit.Must
	within = testkit.Within
)

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q lacks %q", err, w)
		}
	}
	if strings.Contains(err.Error(), "\n") || strings.Count(err.Error(), "cannot") > 1 {
		t.Errorf("error %q is not one line with one cannot", err)
	}
}

// TestDamagedFiles checks that each state file that a power cut, a newer program or
// another role damaged is refused, with its name in the error.
func TestDamagedFiles(t *testing.T) {
	testkit.Slow(t)
	reads := map[string]struct {
		path string
		read func(Tree) error
	}{
		"status":   {"var/swap/agent/status.json", func(t Tree) error { _, err := t.Status(RoleSwap, "agent"); return err }},
		"journal":  {"var/swap/agent/journal.json", func(t Tree) error { _, err := t.Journal("agent"); return err }},
		"history":  {"var/fetch/agent/status.json", func(t Tree) error { _, err := t.History("agent"); return err }},
		"request":  {"run/request/agent.json", func(t Tree) error { _, err := t.TakeRequest("agent"); return err }},
		"order":    {"run/attempt/agent.json", func(t Tree) error { _, err := t.Order("agent"); return err }},
		"report":   {"run/gate/agent/report.json", func(t Tree) error { _, err := t.Report("agent", "a"); return err }},
		"look":     {"run/gate/agent/baseline.json", func(t Tree) error { _, err := t.Look("agent", "a"); return err }},
		"baseline": {"run/baseline/agent.json", func(t Tree) error { _, err := t.Baseline("agent", "a"); return err }},
	}
	plants := map[string]struct {
		plant func(path string) error
		words string
	}{
		"newer":       {content(`{"format":2,"attempt":"a","target":"agent"}`), "its format 2 is newer than this program's 1 (hint: install the version of machinemon-update that wrote it, or a newer one)"},
		"truncated":   {content(`{"format":1,"attempt":"a","tar`), "damaged"},
		"empty":       {content(""), "damaged"},
		"zeroed":      {content(strings.Repeat("\x00", 4096)), "damaged"},
		"wrong types": {content(`{"format":1,"attempt":7,"attempts":"x","target":[]}`), "damaged"},
		"no object":   {content(`[1]`), "damaged"},
		"trailing":    {content(`{"format":1} {}`), "damaged"},
		"a FIFO":      {func(path string) error { return unix.Mkfifo(path, 0o666) }, "not a regular file"},
		"a link":      {func(path string) error { return os.Symlink("/etc/passwd", path) }, "it is a symbolic link"},
		"a directory": {func(path string) error { return os.Mkdir(path, 0o755) }, "not a regular file"},
		"huge":        {func(path string) error { return os.WriteFile(path, make([]byte, maxFile+1), 0o644) }, "damaged"},
	}
	for file, f := range reads {
		for damage, p := range plants {
			if damage == "empty" && (file == "report" || file == "look") {
				continue // no report yet
			}
			t.Run(file+" "+damage, func(t *testing.T) {
				tree := newTree(t)
				path := filepath.Join(filepath.Dir(tree.Var), f.path)
				must(t, p.plant(path))
				within(t, func() { wantError(t, f.read(tree), "cannot read "+path, p.words) })
			})
		}
		t.Run(file+" absent", func(t *testing.T) {
			err := f.read(newTree(t))
			if file == "order" {
				wantError(t, err, "cannot read", "attempt/agent.json: no such file")
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func content(s string) func(string) error {
	return func(path string) error { return os.WriteFile(path, []byte(s), 0o644) }
}

func TestLine(t *testing.T) {
	for text, want := range map[string]string{
		"plain, with ünïcode":             "plain, with ünïcode",
		"two\nlines\tand \x1b[31mred\x00": "two; lines and  [31mred ",
		"bad \xff utf-8":                  "bad ? utf-8",
		"":                                "",
	} {
		if got := Line(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
	if got := Line(strings.Repeat("x", 1<<20)); len(got) > longestLine+10 {
		t.Errorf("%d bytes are left", len(got))
	}
}

func TestJournal(t *testing.T) {
	tree := newTree(t)
	j := &Journal{Attempt: "a1", Target: "agent", Phase: PhaseTrial, Timeout: time.Second, Changes: []Change{
		{Kind: KindReplace, To: "/b", New: "n", Old: "o", Backup: "/x/b"}, {Kind: KindReplace, To: "/a", New: "m", Created: true},
		{Kind: KindRemove, To: "/c", Old: "p", Backup: "/x/c", Created: true}, {Kind: KindSnapshot, To: "/d", Old: "q", Backup: "/x/d"}}}
	must(t, tree.SetJournal(j))
	got, err := tree.Journal("agent")
	must(t, err)
	if fmt.Sprint(got) != fmt.Sprint(j) || got.Format != Format {
		t.Errorf("got %+v, want %+v", got, j)
	}
	if files := fmt.Sprint(got.NewFiles()); files != "[{/b n  0 false false <nil>} {/a m  0 true false <nil>}]" {
		t.Errorf("new files %s", files)
	}
	if files := fmt.Sprint(got.OldFiles()); files != "[{/b o /x/b 0 false false <nil>} {/a   0 false false <nil>} {/c p /x/c 0 true false <nil>}]" {
		t.Errorf("old files %s", files)
	}
	if open, err := tree.OpenTrials(); err != nil || fmt.Sprint(open) != "[agent]" {
		t.Errorf("open trials %v, %v", open, err)
	}
	must(t, os.Mkdir(tree.Dir(RoleSwap, "other"), 0o755))
	must(t, os.Rename(tree.journal("agent"), tree.journal("other")))
	_, err = tree.Journal("other")
	wantError(t, err, "it is of target agent")
	aside, err := tree.PutJournalAside("other")
	must(t, err)
	if _, err := os.Stat(aside); err != nil || aside == tree.journal("other") {
		t.Errorf("put aside as %s: %v", aside, err)
	}
	must(t, tree.CloseJournal("other"))
	must(t, tree.CloseJournal("other"))
	if open, err := tree.OpenTrials(); err != nil || len(open) != 0 {
		t.Errorf("open trials %v, %v", open, err)
	}
}

// TestDigest checks that the digest depends on bytes and paths only.
func TestDigest(t *testing.T) {
	a, b := File{To: "/a", SHA256: "1"}, File{To: "/b", SHA256: "2"}
	want := Fingerprint([]File{a, b})
	if Fingerprint([]File{b, a}) != want || Fingerprint([]File{{To: "/a", SHA256: "1", Backup: "/x"}, b}) != want {
		t.Error("order or backups count")
	}
	for _, other := range [][]File{nil, {a}, {{To: "/a", SHA256: "2"}, {To: "/b", SHA256: "1"}}, {a, b, b}} {
		if Fingerprint(other) == want {
			t.Errorf("%v has the same digest", other)
		}
	}
}

func TestGate(t *testing.T) {
	tree := newTree(t)
	var report, look bytes.Buffer
	must(t, Report{Attempt: "a1", Finding: FindingBad, Reason: "x", MainPID: 7, Probes: []ProbeResult{{Probe: "p", Detail: "d"}}}.Write(&report))
	must(t, Baseline{Attempt: "a1", Detail: "now"}.Write(&look))
	for _, empty := range []bool{true, false} { // as while the gate works
		for name, data := range map[string]*bytes.Buffer{reportName: &report, lookName: &look} {
			if empty {
				data = &bytes.Buffer{}
			}
			must(t, os.WriteFile(filepath.Join(tree.Gate("agent"), name), data.Bytes(), 0o644))
		}
		if !empty {
			break
		}
		if r, err := tree.Report("agent", "a1"); r != nil || err != nil {
			t.Errorf("an empty report: %+v, %v", r, err)
		}
		if b, err := tree.Look("agent", "a1"); b != nil || err != nil {
			t.Errorf("an empty look: %+v, %v", b, err)
		}
	}
	must(t, tree.SetBaseline("agent", Baseline{Attempt: "a1", Detail: "before"}))
	if r, err := tree.Report("agent", "a1"); err != nil || r == nil || r.Finding != FindingBad || r.MainPID != 7 || r.Probes[0].Detail != "d" {
		t.Errorf("report %+v, %v", r, err)
	}
	for want, read := range map[string]func(string, AttemptID) (*Baseline, error){"before": tree.Baseline, "now": tree.Look} {
		if b, err := read("agent", "a1"); err != nil || b == nil || b.Detail != want {
			t.Errorf("baseline %+v, %v", b, err)
		}
		if b, err := read("agent", "a2"); err != nil || b != nil {
			t.Errorf("another attempt's baseline counts: %+v, %v", b, err)
		}
	}
	if r, err := tree.Report("agent", "a2"); err != nil || r != nil {
		t.Errorf("another attempt's report counts: %+v, %v", r, err)
	}
}

func TestTidy(t *testing.T) {
	tree := Tree{Var: t.TempDir()}
	dir := tree.Dir(RoleSwap, "agent")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"status.json", "journal.json", ".status.json123", ".journal.json456", ".manifest.json7", ".payload-8", "manifest.json", "other"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Tidy(RoleSwap, "agent"); err != nil {
		t.Fatal(err)
	}
	var left []string
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if got := strings.Join(left, " "); err != nil || got != "journal.json manifest.json other status.json" {
		t.Errorf("left %s, %v", got, err)
	}
}

// Package internal_test holds the module to its layout.
package internal_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/machinemon/machinemon-update/"

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Standard   bool
}

func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

// list lists the packages of the module, without their tests.
func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps,Standard", "./...")
	cmd.Dir = ".."
	var failure strings.Builder
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, failure.String())
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

var (
	// A step is what a program does; it may be built on the lower packages.
	steps = []string{"checkin/gate", "checkin/relay", "command", "fetch", "generate", "health", "publisher", "release", "swap", "verify"}
	lower = []string{"archive", "checkin", "cli", "durable", "installed", "log", "manifest", "policy", "snapshot", "state", "systemd", "target", "trust", "version"}
	// Steps that a step may import all the same.
	between = map[string][]string{"command": {"generate"}, "publisher": {"release"}}
)

// program is one, as those in cmd, but no package's: it shows to TUF's conformance
// suite what fetch and trust do.
const program = "internal/conformance"

// testOnly are the packages that only tests import.
var testOnly = []string{"internal/testkit", "internal/trust/trusttest"}

// allowed says why a package of ours must not import another; "" when it may.
func allowed(from, to string) (problem string) {
	step := strings.TrimPrefix(to, "internal/")
	me := strings.TrimPrefix(from, "internal/")
	switch {
	case slices.Contains(testOnly, to):
		return "only tests do"
	case from == "internal/testkit":
		return "the tests of every package have to be able to import it"
	case strings.HasPrefix(to, "cmd/"):
		return "nothing imports a program"
	case strings.HasPrefix(to, "internal/systemtest") && !strings.HasPrefix(from, "internal/systemtest"):
		return "only system tests import their helpers"
	case strings.HasPrefix(from, "cmd/"), from == program, strings.HasPrefix(from, "internal/systemtest"):
		return ""
	case step == "command", step == "publisher":
		return "only cmd imports it"
	case slices.Contains(lower, me) && slices.Contains(steps, step):
		return "a lower package imports no step"
	case slices.Contains(steps, me) && slices.Contains(steps, step) && !slices.Contains(between[me], step):
		return "no step imports another"
	}
	return ""
}

// TestLayout holds the imports to one direction: cmd, then a step, then the
// lower packages.
func TestLayout(t *testing.T) {
	for _, p := range list(t) {
		from := p.name()
		if dir, name := path.Split(from); dir == "internal/" && name != "systemtest" && from != program && !slices.Contains(testOnly, from) && !slices.Contains(steps, name) && !slices.Contains(lower, name) {
			t.Errorf("%s is neither a step nor a lower package: say which, in this test", from)
		}
		for _, imported := range p.Imports {
			if to, ours := strings.CutPrefix(imported, module); ours {
				if problem := allowed(from, to); problem != "" {
					t.Errorf("%s imports %s: %s", from, to, problem)
				}
			}
			if from == "internal/manifest" && strings.Contains(strings.Split(imported, "/")[0], ".") {
				t.Errorf("%s imports %s: it is pure, and uses the standard library only", from, imported)
			}
			if strings.HasPrefix(imported, "github.com/theupdateframework/") && !slices.Contains([]string{"internal/trust", "internal/trust/trusttest", "internal/release"}, from) {
				t.Errorf("%s imports %s: only internal/trust believes metadata, and internal/release writes it", from, imported)
			}
			if from == "internal/state" && imported == module+"internal/trust" {
				t.Errorf("%s imports %s: every program would link go-tuf", from, imported)
			}
			if strings.HasPrefix(imported, "modernc.org/") && from != "internal/checkin/gate" && !strings.HasPrefix(from, "internal/systemtest") {
				t.Errorf("%s imports %s: only the check-in gate has a database", from, imported)
			}
			parser := imported == "archive/tar" || strings.HasPrefix(imported, "github.com/klauspost/compress")
			if parser && from != "internal/archive" && !strings.HasPrefix(from, "internal/systemtest") {
				t.Errorf("%s imports %s: only internal/archive parses archives", from, imported)
			}
		}
	}
}

// TestLinked: what the workers must not have in them. internal/trust is a part of
// two of them: go-tuf's own client, which downloads, must not come with it.
func TestLinked(t *testing.T) {
	const (
		cobra = "github.com/spf13/cobra"
		tuf   = "github.com/theupdateframework/go-tuf/v2/metadata"
	)
	seen := 0
	for _, p := range list(t) {
		never := map[string][]string{
			"internal/trust":  {"net/http", tuf + "/updater", tuf + "/fetcher", tuf + "/config"},
			"cmd/fetcher":     {cobra, module + "internal/archive", module + "internal/swap", tuf + "/updater"},
			"cmd/verifier":    {cobra, "net/http", module + "internal/swap"},
			"cmd/swapper":     {cobra, "net/http", "archive/tar", module + "internal/archive"},
			"cmd/health-gate": {cobra, module + "internal/swap", module + "internal/archive", tuf},
			// What decides is in lower packages; the fetcher is run, not linked.
			"cmd/machinemon-update": {module + "internal/fetch", module + "internal/swap", module + "internal/archive"},
			"cmd/generator":         {cobra, "net/http", tuf},
			"cmd/checkin-relay":     {cobra, tuf, module + "internal/swap", module + "internal/archive", module + "internal/command", "database/sql"},
			// The only one with a database, and all that it does is to answer.
			"cmd/checkin-gate": {cobra, tuf, module + "internal/swap", module + "internal/archive", module + "internal/target"},
		}[p.name()]
		if never != nil {
			seen++
		}
		for _, n := range never {
			if slices.Contains(p.Deps, n) {
				t.Errorf("%s links %s, by way of %s", p.name(), n, by(t, p, n))
			}
		}
	}
	if seen != 9 {
		t.Errorf("%d of 7 workers, the command and internal/trust were found", seen)
	}
}

// by names the packages that import what a program must not link.
func by(t *testing.T, program pkg, never string) string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports", "./"+program.name())
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); err != nil {
			break
		}
		if slices.Contains(p.Imports, never) {
			all = append(all, p.ImportPath)
		}
	}
	return strings.Join(all, ", ")
}

// Package internal_test tests the layout of the module.
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

	"github.com/machinemon/machinemon-update/internal/testkit"
)

const module = "github.com/machinemon/machinemon-update/"

// pkg is the description of a package by "go list -json".
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Standard   bool
}

func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

// list returns the packages of the module, without their tests.
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
	// A step is one task of a program. It may use the lower packages.
	steps = []string{"checkin/gate", "checkin/relay", "command", "fetch", "fetch/download", "fetch/source", "generate", "health", "inform", "notify", "publisher", "release", "swap", "verify"}
	lower = []string{"archive", "calendar", "checkin", "cli", "delta", "dirtree", "durable", "installed", "log", "manifest", "nearest", "pattern", "policy", "rollout", "signature", "snapshot", "state", "systemd", "target", "trust", "units", "version"}
	// between has the steps that a step may import as an exception.
	between = map[string][]string{"command": {"generate"}, "publisher": {"release"},
		"fetch": {"fetch/download", "fetch/source"}, "fetch/source": {"fetch/download"}}
)

// program is a program like those in cmd, outside of cmd: TUF's conformance suite runs it
// to test fetch and trust.
const program = "internal/conformance"

// testOnly are the packages that only tests import.
var testOnly = []string{"internal/testkit", "internal/signature/signaturetest", "internal/trust/trusttest"}

// allowed returns why a package of the module must not import another; "" if it may.
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
	case strings.HasPrefix(step, "fetch/") && me != "fetch" && me != "fetch/source":
		return "only fetch imports its parts"
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

// TestLayout shows that imports have one direction: cmd, then a step, then the lower
// packages.
func TestLayout(t *testing.T) {
	testkit.Slow(t)
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
			if parser && from != "internal/archive" && from != "internal/delta" && !strings.HasPrefix(from, "internal/systemtest") {
				t.Errorf("%s imports %s: only internal/archive and internal/delta unpack", from, imported)
			}
		}
	}
}

// TestLinked shows which packages each program does not link. internal/trust is part of
// several programs, so go-tuf's own client, which downloads, must not come with it.
func TestLinked(t *testing.T) {
	testkit.Slow(t)
	const (
		cobra = "github.com/spf13/cobra"
		tuf   = "github.com/theupdateframework/go-tuf/v2/metadata"
	)
	seen := 0
	for _, p := range list(t) {
		never := map[string][]string{
			"internal/trust":  {"net/http", tuf + "/updater", tuf + "/fetcher", tuf + "/config"},
			"cmd/fetcher":     {cobra, module + "internal/archive", module + "internal/delta", module + "internal/swap", tuf + "/updater"},
			"cmd/verifier":    {cobra, "net/http", module + "internal/swap"},
			"cmd/swapper":     {cobra, "net/http", "archive/tar", module + "internal/archive", module + "internal/delta"},
			"cmd/health-gate": {cobra, module + "internal/swap", module + "internal/archive", tuf},
			// The rules of decisions are in lower packages; the fetcher is run, not linked.
			"cmd/machinemon-update": {module + "internal/fetch", module + "internal/fetch/download", module + "internal/swap", module + "internal/archive"},
			"cmd/notifier":          {cobra, tuf, module + "internal/swap", module + "internal/archive", module + "internal/fetch/download"},
			"cmd/generator":         {cobra, "net/http", tuf},
			"cmd/checkin-relay":     {cobra, tuf, module + "internal/swap", module + "internal/archive", module + "internal/command", "database/sql"},
			// It is the only program with a database, and it only answers requests.
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
	if seen != 10 {
		t.Errorf("%d of 8 workers, the command and internal/trust were found", seen)
	}
}

// by returns the packages by which a program links the package never.
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

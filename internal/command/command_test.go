package command

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/machinemon/machinemon-update/internal/fetch"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"machinemon-update": program, "fetcher": fetcher})
}

// fetcher is the fetcher program, as the command runs it on the same machine.
func fetcher() {
	work := os.Getenv("WORK")
	dirs := target.DefaultDirs
	dirs.Root = work
	tree := state.Tree{Var: filepath.Join(work, "var"), Run: filepath.Join(work, "run")}
	if err := fetch.AnswerLook(context.Background(), tree, dirs, os.Args[2], os.Args[3], os.Stdout); err != nil {
		panic(err)
	}
}

// sendNothing is a sender whose server is not there.
func sendNothing(name string) ([]string, error) {
	return []string{`cannot tell "test" of ` + name + ` by webhook: the server answers with status 404`,
		`cannot tell "test" of ` + name + ` by mail: there is no /usr/sbin/sendmail (hint: install a mail server)`}, nil
}

// program is the command on a machine whose files are below $WORK: state in var and run,
// target files in etc and usr. With AS_ROOT=1 it behaves as for root. PATH_UNIT is the
// state of the path units.
func program() {
	work := os.Getenv("WORK")
	dirs := target.DefaultDirs
	dirs.Root = work
	a := &app{
		tree:    state.Tree{Var: filepath.Join(work, "var"), Run: filepath.Join(work, "run")},
		targets: dirs, in: os.Stdin, out: os.Stdout, err: os.Stderr, root: os.Getenv("AS_ROOT") == "1",
		reload: func() error { return nil }, send: sendNothing, fetcher: "fetcher", machineID: filepath.Join(work, "machine-id"),
		clock: clockSynchronised,
	}
	if state := os.Getenv("PATH_UNIT"); state != "" {
		a.machine = func(context.Context) (machine, error) {
			return fakeMachine{unit: systemd.Unit{Load: "loaded", Active: state, Sub: "dead"}}, nil
		}
	}
	os.Exit(a.main(os.Args[1:], "1.2.3"))
}

// TestScripts runs scripts with two commands more than testscript:
//
//	exits STATUS [ARGUMENT...]   machinemon-update ends with this status
//	expand FILE...               put ${URL}, ${PLATFORM} and ${WORK} in
//
// URL is a server of the files in $WORK/site. $WORK/1.root.json and timestamp.json
// are a repository's; ROOT_SHA256 is the root's digest.
func TestScripts(t *testing.T) {
	testkit.Slow(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			site := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(env.WorkDir, "site"))))
			env.Defer(site.Close)
			env.Setenv("URL", site.URL)
			repo := trusttest.New(t, &manifest.Manifest{Version: "1.2.0"})
			for _, name := range []string{"1.root.json", "timestamp.json"} {
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), repo.Files[name], 0o600); err != nil {
					return err
				}
			}
			env.Setenv("ROOT_SHA256", manifest.Digest(repo.Pin))
			env.Setenv("PLATFORM", manifest.Host())
			env.Setenv("TZ", "UTC")
			env.Setenv("ESC", "\x1b")
			env.Setenv("CSI", "\u009b")
			return os.Chmod(env.WorkDir, 0o755) // only root may be able to write target files
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "expand": expand},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: exits STATUS [ARGUMENT...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec("machinemon-update", args[1:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func expand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: expand FILE...")
	}
	for _, f := range args {
		text := os.Expand(ts.ReadFile(f), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(f), []byte(text), 0o644))
	}
}

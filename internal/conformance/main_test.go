package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"conformance-client": main})
}

// TestScripts runs scripts with one command more than testscript:
//
//	serve release N|rotate|kept|withhold FILE   what URL has from now on; kept is what it had at first
//
// $WORK/1.root.json is the root of the repository at URL.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			repo := newRepo(t)
			s := &site{repo: repo, first: repo.Kept()}
			s.files = s.first
			server := httptest.NewServer(s)
			env.Defer(server.Close)
			env.Setenv("URL", server.URL)
			env.Values["site"] = s
			if err := os.Mkdir(filepath.Join(env.WorkDir, "targets"), 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(env.WorkDir, "1.root.json"), repo.Pin, 0o644)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"serve": serve},
	})
}

// site serves the repository from /metadata, and its manifests from /targets.
type site struct {
	mu           sync.Mutex // guards files and their bytes, which the next step may write over
	repo         *trusttest.Repo
	first, files map[string][]byte
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	dir, name := path.Split(r.URL.Path)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.files[name]
	if isManifest := len(name) > len(manifest.FileName); b == nil || (dir == "/targets/") != isManifest {
		http.NotFound(w, r)
		return
	}
	w.Write(b)
}

func serve(ts *testscript.TestScript, _ bool, args []string) {
	s := ts.Value("site").(*site)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch args[0] {
	case "release":
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		s.repo.Release(n)
	case "rotate":
		s.repo.Rotate()
	}
	s.files = s.repo.Kept()
	switch args[0] {
	case "kept":
		s.files = s.first
	case "withhold":
		delete(s.files, args[1])
	}
}

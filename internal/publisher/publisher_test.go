package publisher

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"machinemon-release": func() { os.Exit(Main(os.Args[1:], "devel")) }})
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("SOURCE_DATE_EPOCH", "1793534400") // 2026-11-01T12:00:00Z
			e.Setenv("TZ", "UTC")
			return nil
		},
	})
}

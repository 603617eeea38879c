package health

import (
	"testing"

	"github.com/machinemon/machinemon-update/internal/state"
)

// TestProgramInHome: a program in a home, where the gate cannot look, is known by its path.
func TestProgramInHome(t *testing.T) {
	const path = "/home/alice/bin/agent"
	for _, row := range []struct {
		main program
		runs string
		want bool
	}{
		{program{path: path}, path, true},
		{program{path: path}, path + " (deleted)", false}, // the old file
		{program{path: path}, "/home/alice/bin/other", false},
		{program{path: "/proc/self/exe"}, "/proc/self/exe", false},                            // elsewhere the file counts
		{program{path: path, id: state.FileID{Dev: 1, Ino: 2}}, path, false},                  // root has read another file there
		{program{path: path, id: state.FileID{Dev: 1, Ino: 1}}, "/srv/alice/bin/agent", true}, // and here this one
	} {
		files, err := row.main.files()
		if err != nil {
			t.Errorf("%s: %v", row.main.path, err)
		}
		if got := row.main.runsAs(executable{Path: row.runs, File: state.FileID{Dev: 1, Ino: 1}}, files); got != row.want {
			t.Errorf("%s runs as %s: %v, want %v", row.main.path, row.runs, got, row.want)
		}
	}
}

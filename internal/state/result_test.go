package state

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"testing"
)

// TestResultTable checks that each result has one row, and each exit status one place.
func TestResultTable(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "result.go", nil, 0)
	must(t, err)
	constants := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 {
			if of, ok := v.Type.(*ast.Ident); ok && of.Name == "Result" {
				constants++
			}
		}
		return true
	})
	var seen []Result
	exits := []int{}
	for _, row := range resultTable {
		if row.result == "" || slices.Contains(seen, row.result) {
			t.Errorf("%q has no name, or two rows", row.result)
		}
		seen = append(seen, row.result)
		if n := len(exits); n == 0 || exits[n-1] != row.result.CommandExit() {
			exits = append(exits, row.result.CommandExit())
		}
		if (row.exit == 0) != slices.Contains([]Result{ResultCurrent, ResultAvailable, ResultAdopted, ResultCommitted, ResultUnproven, ResultSettled, ResultDrilled}, row.result) {
			t.Errorf("%q has exit status %d", row.result, row.exit)
		}
		if row.traits&(ofFetch|ofVerify|ofSwap) == 0 && row.result != ResultHandedOn && row.result != ResultOnTrial {
			t.Errorf("no role's record may say %q", row.result)
		}
	}
	if constants == 0 || constants != len(seen) {
		t.Errorf("%d results are declared, %d have a row", constants, len(seen))
	}
	// This is the manual's order. A status at two places would be listed twice.
	if want := []int{5, 4, 6, 7, 1, 2, 8, 3, 0}; !slices.Equal(exits, want) {
		t.Errorf("the exit statuses are in the order %v, want %v", exits, want)
	}
}

func TestResultExit(t *testing.T) {
	for want, results := range map[int][]Result{
		0: {ResultCurrent, ResultAvailable, ResultAdopted, ResultCommitted, ResultUnproven, ResultSettled, ResultDrilled}, 1: {ResultFailed, ResultHandedOn, ResultOnTrial, "", "nonsense"}, 2: {ResultMisconfigured},
		4: {ResultRolledBack, ResultInterrupted}, 5: {ResultRollbackFailed}, 6: {ResultRefused}, 7: {ResultNotDownloaded}, 8: {ResultNotAttempted},
	} {
		for _, r := range results {
			if got := r.Exit(); got != want {
				t.Errorf("%q: %d, want %d", r, got, want)
			}
		}
	}
}

func TestAlarming(t *testing.T) {
	for _, row := range resultTable {
		want := slices.Contains([]Result{ResultUnproven, ResultFailed, ResultMisconfigured, ResultRolledBack, ResultInterrupted, ResultRollbackFailed, ResultRefused}, row.result)
		if got := row.result.Alarming(); got != want {
			t.Errorf("%q: %v, want %v", row.result, got, want)
		}
	}
	if Result("of a later version").Alarming() {
		t.Error("a result that is not known is alarming")
	}
}

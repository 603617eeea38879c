package internal_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestHints: no program proposes to give up authentication. Settings for that are named
// only where they are read, and in the manuals.
func TestHints(t *testing.T) {
	hints := 0
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") || strings.HasPrefix(file, "systemtest") {
			return err
		}
		source, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(source, func(n ast.Node) bool {
			literal, ok := n.(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			_, hint, found := strings.Cut(text, "hint: ")
			if found {
				hints++
			}
			if strings.Contains(hint, "skip_tls = true") || strings.Contains(text, "unauthenticated") && text != "trust.allow_unauthenticated" {
				t.Errorf("%s: %q", file, text)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if hints < 100 {
		t.Errorf("only %d hints were found", hints)
	}
}

package download

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestOneDialer checks that the fetcher connects to nothing except through [reach].
func TestOneDialer(t *testing.T) {
	allowed := map[string]bool{"reach.go net.Dialer": true, "client.go http.Client": true, "client.go http.Transport": true}
	connects := func(name string) bool {
		pkg, of, _ := strings.Cut(name, ".")
		return pkg == "net" && (strings.HasPrefix(of, "Dial") || strings.HasPrefix(of, "Lookup") || of == "Resolver") ||
			pkg == "http" && (of == "Client" || of == "Transport" || strings.HasPrefix(of, "Default") || of == "Get" || of == "Head" || of == "Post" || of == "PostForm")
	}
	found := map[string]bool{}
	testkit.Must(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if pkg, ok := s.X.(*ast.Ident); ok && connects(pkg.Name+"."+s.Sel.Name) {
					found[filepath.Base(path)+" "+pkg.Name+"."+s.Sel.Name] = true
				}
			}
			return true
		})
		return nil
	}))
	for use := range found {
		if !allowed[use] {
			t.Errorf("%s connects without the rule", use)
		}
	}
	if len(found) != len(allowed) {
		t.Errorf("found %v", found)
	}
}

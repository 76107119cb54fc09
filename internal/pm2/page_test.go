package pm2

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// docs/from-pm2.md names each key that is looked for; other spellings of one may be
// missing.
func TestThePageHasEveryKey(t *testing.T) {
	text, err := os.ReadFile("../../docs/from-pm2.md")
	if err != nil {
		t.Fatal(err)
	}
	spellings := words("script_args interpreterArgs exec_interpreter output out out_log error err err_file err_log log pid cron user io disable_trace kill_retry_time")
	keys := slices.Concat(slices.Collect(maps.Keys(without)), slices.Collect(maps.Keys(elsewhere)), cases(t, "take"))
	for _, key := range keys {
		if !spellings[key] && !strings.Contains(string(text), "`"+key+"`") && !strings.Contains(string(text), "`"+key+":") {
			t.Errorf("the page says nothing of %s", key)
		}
	}
}

// cases are the texts that a function of keys.go tells apart.
func cases(t *testing.T, name string) []string {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), "keys.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, d := range tree.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Name.Name != name {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if c, ok := n.(*ast.CaseClause); ok {
				for _, e := range c.List {
					if text, err := strconv.Unquote(e.(*ast.BasicLit).Value); err == nil {
						found = append(found, text)
					}
				}
			}
			return true
		})
	}
	if len(found) == 0 {
		t.Fatalf("%s tells nothing apart", name)
	}
	return found
}

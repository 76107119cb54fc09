package event

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The page that says what the JSON is: what is not on it is no promise, and what is has
// to be there.
const page = "../../docs/control.md"

func contract(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rows are the words in the first column of the table with that head.
func rows(t *testing.T, text, head string) []string {
	t.Helper()
	_, table, found := strings.Cut(text, "\n| "+head+" |\n|--")
	if !found {
		t.Fatalf("%s has no table of %s", page, head)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	var words []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(table, -1) {
		words = append(words, m[1])
	}
	return words
}

// Each type has a heading, and a table of its fields in their order; "?" stands behind
// the kind of those that may be left out.
func TestThePageHasEveryFieldOfTheContract(t *testing.T) {
	text := contract(t)
	for _, v := range []any{Event{}, Report{}, Listener{}, Generation{}, CanaryStep{}, Worker{}, Release{}, Verdict{}} {
		typ := reflect.TypeOf(v)
		_, section, found := strings.Cut(text, "\n### "+typ.Name()+"\n")
		if !found {
			t.Errorf("%s has no heading for %s", page, typ.Name())
			continue
		}
		var want []string
		for i := range typ.NumField() {
			name, omit, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			want = append(want, name)
			row := regexp.MustCompile("(?m)^\\| `" + name + "` \\|([^|]*)\\|").FindStringSubmatch(section)
			if row == nil {
				continue // said below
			}
			if marked := strings.Contains(row[1], "?"); marked != (omit != "") {
				t.Errorf("%s.%s: %q, and its tag says %q", typ.Name(), name, row[1], omit)
			}
		}
		if got := rows(t, section, "field | |"); !slices.Equal(got, want) {
			t.Errorf("%s: the page has %v, the type %v", typ.Name(), got, want)
		}
	}
}

// constants are the values of a file's constants that have a type or a prefix of a name.
func constants(t *testing.T, typ, prefix string) []string {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), "event.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	ast.Inspect(tree, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		of, _ := spec.Type.(*ast.Ident)
		if typ != "" && (of == nil || of.Name != typ) || !strings.HasPrefix(spec.Names[0].Name, prefix) || typ == "" && of != nil {
			return true
		}
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, value)
		return true
	})
	slices.Sort(values)
	return values
}

func TestThePageHasEveryKindAndState(t *testing.T) {
	text := contract(t)
	for head, want := range map[string][]string{
		"`event` |": constants(t, "Kind", ""),
		"`state` |": constants(t, "", "State"),
	} {
		got := rows(t, text, head)
		slices.Sort(got)
		if !slices.Equal(got, want) || len(want) == 0 {
			t.Errorf("%s: the page has %v, the code %v", head, got, want)
		}
	}
}

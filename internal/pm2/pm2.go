// Package pm2 turns what an ecosystem file of PM2 holds into configurations of baton:
// one for each application, and a word on everything that could not be carried over,
// with the way out.
//
// The invariant: a file it writes says no more than the ecosystem file did, and nothing
// that was in there goes without a word. It reads the scripts that are named, to see
// what starts them and on which port they listen; it runs nothing and writes nothing.
package pm2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// App is one application of an ecosystem file, and what became of it.
type App struct {
	Name string // as baton has it
	TOML string // the configuration
	// Notes say what was not carried over or is different now, in the order of the file
	// they would be read in.
	Notes []Note
	// Unlistened: nothing says where it listens; the configuration is not valid until
	// somebody has added that.
	Unlistened bool
}

// Note is about one key.
type Note struct {
	Key  string // "env.PORT"; "" is about the whole
	Text string // why, and the way out
}

func (n Note) String() string {
	if n.Key == "" {
		return n.Text
	}
	return n.Key + ": " + n.Text
}

// Source says where an ecosystem file lies, and where the configurations will.
type Source struct {
	File string // absolute: relative paths start from its folder
	Out  string // absolute: the folder of the configurations
}

// Convert reads an ecosystem file as JSON: an object with apps, a list of
// applications, or one application. Notes are about what is beside them.
func Convert(text []byte, s Source) (apps []App, notes []Note, err error) {
	var whole any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&whole); err != nil {
		return nil, nil, fmt.Errorf("not JSON: %w", err)
	}
	if holdsNUL(whole) {
		return nil, nil, errors.New("a text in it holds a NUL character")
	}
	var list []any
	switch w := whole.(type) {
	case []any:
		list = w
	case map[string]any:
		switch a := w["apps"].(type) {
		case []any:
			list = a
		case map[string]any:
			list = []any{a}
		case nil:
			if w["script"] == nil {
				return nil, nil, errors.New("it has no apps, and is no application either: there is no script")
			}
			list, w = []any{w}, nil
		default:
			return nil, nil, fmt.Errorf("apps is no list, but %s", kind(a))
		}
		notes = beside(w)
	default:
		return nil, nil, fmt.Errorf("it is no object and no list, but %s", kind(whole))
	}
	if len(list) == 0 {
		return nil, nil, errors.New("it has no applications")
	}
	names := map[string]bool{}
	for i, item := range list {
		table, ok := item.(map[string]any)
		if !ok {
			return nil, nil, fmt.Errorf("application %d is no object, but %s", i+1, kind(item))
		}
		app, err := convert(table, s, names)
		if err != nil {
			return nil, nil, fmt.Errorf("application %d%s: %w", i+1, quotedName(table), err)
		}
		apps = append(apps, app)
	}
	return apps, notes, nil
}

// holdsNUL finds what no argument, variable or path can hold.
func holdsNUL(v any) bool {
	switch x := v.(type) {
	case string:
		return strings.ContainsRune(x, 0)
	case []any:
		return slices.ContainsFunc(x, holdsNUL)
	case map[string]any:
		for key, value := range x {
			if holdsNUL(key) || holdsNUL(value) {
				return true
			}
		}
	}
	return false
}

// beside notes what stands beside the applications.
func beside(whole map[string]any) (notes []Note) {
	for _, key := range slices.Sorted(maps.Keys(whole)) {
		switch key {
		case "apps":
		case "deploy":
			notes = append(notes, Note{key, "baton does not fetch code: deploy with what you like, and let its last step be baton reload NAME"})
		default:
			notes = append(notes, Note{key, "not known here"})
		}
	}
	return notes
}

func quotedName(table map[string]any) string {
	if name, ok := table["name"].(string); ok {
		return fmt.Sprintf(" (%s)", name)
	}
	return ""
}

func kind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case bool:
		return "true or false"
	case []any:
		return "a list"
	}
	return "an object"
}

// taken is what is known of one application while its keys are gone through.
type taken struct {
	Source
	table map[string]any
	name  string // as baton has it
	cwd   string // absolute
	notes []Note

	exec        []string
	node        bool // it is run by Node
	env         map[string]string
	profiles    map[string]map[string]string // by the name behind env_
	port        string                       // "" when it is not known
	portWhy     string                       // where it was found, unless that was the file
	host        string
	watch       []string
	user, group string
	// The lines of these sections.
	handoff, restart, limits []setting
}

// setting is a line of a section; why, if not empty, is a comment above it.
type setting struct{ key, value, why string }

func (t *taken) note(key, format string, args ...any) {
	t.notes = append(t.notes, Note{key, fmt.Sprintf(format, args...)})
}

func convert(table map[string]any, s Source, names map[string]bool) (App, error) {
	t := &taken{Source: s, table: table, env: map[string]string{}, profiles: map[string]map[string]string{}}
	if err := t.takeCommand(names); err != nil {
		return App{}, err
	}
	for _, key := range slices.Sorted(maps.Keys(table)) {
		if table[key] != nil {
			t.take(key, table[key])
		}
	}
	t.findPort()
	slices.SortStableFunc(t.notes, func(a, b Note) int { return strings.Compare(a.Key, b.Key) })
	return App{Name: t.name, TOML: t.write(), Notes: t.notes, Unlistened: t.port == ""}, nil
}

// within gives a path as a file in Out would have it: relative where it lies below.
func (t *taken) within(path string) string {
	rel, err := filepath.Rel(t.Out, path)
	switch {
	case err != nil || rel == ".." || strings.HasPrefix(rel, "../"):
		return path
	case rel == ".":
		return rel
	}
	return "./" + rel
}

package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// maxSize bounds the file: a device or a log given by mistake is refused, not read.
const maxSize = 1 << 20

// Options is what lies beside the file.
type Options struct {
	Profile string    // the profile to choose; "" for none
	Set     []Setting // laid over the file and the profile, in this order
	Under   []Setting // for keys that neither says: defaults other than the usual ones
	// Address, when not nil, judges each listener's address beyond the light checks
	// made here; its error is reported at the address's place.
	Address func(address string) error
}

// Setting is one value from outside the file, a flag's.
type Setting struct {
	Key string // dotted: "handoff.ready"
	// Value is what TOML would hold there: a string, an int64, []string, or for
	// "listen" []map[string]any, which replaces the listeners of the file.
	Value any
	From  string // how it was given, for errors: "--ready"
}

// Load reads the file at path and parses it. With path "" there is no file, and
// everything comes from o.Set; relative paths are then relative to the working
// directory. The error is always Errors.
func Load(path string, o Options) (*Config, error) {
	if path == "" {
		return Parse("", "", o)
	}
	text, err := read(path)
	if err != nil {
		return nil, Errors{{File: path, Problem: err.Error()}}
	}
	return Parse(text, path, o)
}

func read(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		var at *fs.PathError
		if errors.As(err, &at) { // the path stands before the message already
			err = fmt.Errorf("open: %w", at.Err)
		}
		return "", err
	}
	defer f.Close() // read only: closing cannot lose anything
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		var at *fs.PathError
		if errors.As(err, &at) {
			err = fmt.Errorf("read: %w", at.Err)
		}
		return "", err
	}
	if len(text) > maxSize {
		return "", fmt.Errorf("larger than %d bytes: not a configuration", maxSize)
	}
	return string(text), nil
}

// Parse is Load for a text already read; path names it in errors and gives the
// directory that relative paths start from.
func Parse(text, path string, o Options) (*Config, error) {
	absolute, dir := "", ""
	if path != "" {
		var err error
		if absolute, err = filepath.Abs(path); err != nil {
			return nil, Errors{{File: path, Problem: err.Error(), Hint: "give an absolute path"}}
		}
		dir = filepath.Dir(absolute)
	}
	root, wrong := document(text, path, dir)
	if wrong != nil {
		return nil, Errors{*wrong}
	}
	profiles, errs := splitProfiles(root)
	names := slices.Sorted(maps.Keys(profiles))
	if o.Profile != "" && profiles[o.Profile] == nil {
		return nil, append(errs, unknownProfile(path, o.Profile, names)).tidy()
	}

	var chosen *Config
	if o.Profile == "" {
		c, found := complete(root, o)
		chosen, errs = c, append(errs, found...)
	} else {
		// Without its profile the file need not be complete, but what it says must
		// be of the right kind.
		errs = append(errs, (&decoder{}).decode(root, Default())...)
	}
	for _, name := range names {
		merged := root.profiled(profiles[name])
		if name == o.Profile {
			c, found := complete(merged, o)
			chosen, errs = c, append(errs, found...)
		} else {
			errs = append(errs, idle(merged, o)...)
		}
	}
	if len(errs) > 0 {
		return nil, errs.tidy()
	}
	chosen.File, chosen.Profile, chosen.Profiles = absolute, o.Profile, names
	return chosen, nil
}

// idle holds a profile that was not chosen to the rules: one that is broken should
// be known before its day. It is good if it is so by itself or with the settings:
// those were given for the chosen profile, but may stand for what the file leaves
// to them.
func idle(merged *node, o Options) Errors {
	alone := o
	alone.Set = nil
	if _, errs := complete(merged, alone); len(errs) == 0 {
		return nil
	}
	_, errs := complete(merged, o)
	return errs
}

// document turns text into a tree.
func document(text, path, dir string) (*node, *Error) {
	text = strings.TrimPrefix(text, "\ufeff")
	var raw map[string]any
	if _, err := toml.Decode(text, &raw); err != nil {
		wrong := Error{File: path, Line: 1, Column: 1, Problem: strings.TrimPrefix(err.Error(), "toml: ")}
		var at toml.ParseError
		if errors.As(err, &at) {
			// The library's line is one too far for an error at the end of a line;
			// its offset is right.
			before := text[:max(0, min(at.Position.Start, len(text)))]
			wrong.Line = 1 + strings.Count(before, "\n")
			wrong.Column = 1 + utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:])
			wrong.Key, wrong.Problem = oneLine(at.LastKey), oneLine(at.Message)
		}
		return nil, &wrong
	}
	if raw == nil {
		raw = map[string]any{}
	}
	return source{file: path, dir: dir}.tree(raw, places(text), ""), nil
}

// oneLine writes out the control characters that the library quotes as they are.
func oneLine(s string) string {
	var b strings.Builder
	for _, c := range s {
		if unicode.IsControl(c) {
			b.WriteString(strings.Trim(strconv.QuoteRune(c), "'"))
		} else {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// splitProfiles takes [profile] out of the tree.
func splitProfiles(root *node) (map[string]*node, Errors) {
	all := root.table["profile"]
	delete(root.table, "profile")
	if all == nil {
		return nil, nil
	}
	var d decoder
	if all.table == nil {
		d.wrong(all, "a table", "write the header as [profile.NAME]")
		return nil, d.errs
	}
	profiles := map[string]*node{}
	for _, name := range slices.Sorted(maps.Keys(all.table)) {
		switch n := all.table[name]; {
		case n.table == nil:
			d.wrong(n, "a table", "write the header as [profile.NAME]")
		case n.table["profile"] != nil:
			d.fail(n.table["profile"], "a profile cannot hold profiles", "move it out")
		case !validName(name):
			d.fail(n, "not a name for a profile", nameHint)
		default:
			profiles[name] = n
		}
	}
	return profiles, d.errs
}

func unknownProfile(path, name string, known []string) Error {
	e := Error{File: path, Problem: fmt.Sprintf("no profile %q", name),
		Hint: "the file has no [profile.NAME] section"}
	if len(known) > 0 {
		e.Hint = "the file has " + strings.Join(known, ", ")
	}
	return e
}

// complete decodes a tree with the settings over it and holds it to the rules.
func complete(root *node, o Options) (*Config, Errors) {
	for _, s := range o.Under {
		if keys := strings.Split(s.Key, "."); root.find(keys...) == nil && root.near(keys...).table != nil {
			root = root.over(s.tree())
		}
	}
	for _, s := range o.Set {
		root = root.over(s.tree())
	}
	d := &decoder{}
	c := Default()
	_ = d.decode(root, c) // returned below, with what the rules find
	(&rules{decoder: d, c: c, root: root, address: o.Address}).check()
	return c, d.errs
}

func (d *decoder) decode(root *node, into *Config) Errors {
	v := reflect.ValueOf(into).Elem()
	d.table(root, v, tagged(v.Type()), "profile")
	return d.errs
}

// tree gives the setting the shape of a document that holds only it.
func (s Setting) tree() *node {
	keys := strings.Split(s.Key, ".")
	value := s.Value
	if list, ok := value.([]string); ok {
		anys := make([]any, len(list))
		for i := range list {
			anys[i] = list[i]
		}
		value = anys
	}
	n := source{file: s.From}.tree(value, nil, s.Key)
	for i := len(keys) - 1; i >= 0; i-- {
		n = &node{table: map[string]*node{keys[i]: n}, file: s.From, key: strings.Join(keys[:i], ".")}
	}
	return n
}

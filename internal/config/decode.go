package config

import (
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// decoder turns a tree into a Config by the tags of the struct, and goes on after
// an error so that all of them are known at once.
type decoder struct{ errs Errors }

func (d *decoder) fail(n *node, problem, hint string) {
	d.errs = append(d.errs, Error{File: n.file, Line: n.line, Column: n.column,
		Key: n.key, Problem: problem, Hint: hint})
}

// keysOf gives the fields of a struct that are keys, in their order. Those of a
// struct within it that has no name are its own.
func keysOf(t reflect.Type) []reflect.StructField {
	var fields []reflect.StructField
	for i := range t.NumField() {
		f := t.Field(i)
		switch {
		case f.Anonymous:
			for _, inner := range keysOf(f.Type) {
				inner.Index = append([]int{i}, inner.Index...)
				fields = append(fields, inner)
			}
		case f.Tag.Get("toml") != "":
			fields = append(fields, f)
		}
	}
	return fields
}

// tagged gives the same by key.
func tagged(t reflect.Type) map[string]reflect.StructField {
	fields := map[string]reflect.StructField{}
	for _, f := range keysOf(t) {
		fields[f.Tag.Get("toml")] = f
	}
	return fields
}

func (d *decoder) table(n *node, into reflect.Value, known map[string]reflect.StructField, extra ...string) {
	if n.table == nil {
		d.wrong(n, "a table", "")
		return
	}
	for _, name := range slices.Sorted(maps.Keys(n.table)) {
		child := n.table[name]
		if f, ok := known[name]; ok {
			d.value(child, into.FieldByIndex(f.Index), f.Tag.Get("form"))
		} else if !slices.Contains(extra, name) {
			d.unknown(child, name, slices.Sorted(slices.Values(slices.AppendSeq(slices.Clone(extra), maps.Keys(known)))))
		}
	}
}

// unknown names the nearest key of the same table, or the section that has it.
func (d *decoder) unknown(n *node, name string, known []string) {
	if slices.Contains(limitNames, name) {
		d.fail(n, "unknown key here", fmt.Sprintf("%q, as a limit of setrlimit(2), belongs under [command.limits]", name))
		return
	}
	if near := Nearest(name, known); near != "" {
		d.fail(n, "unknown key", fmt.Sprintf("did you mean %q?", near))
		return
	}
	var sections []string
	for _, key := range Keys() {
		if key == name {
			d.fail(n, "unknown key here", fmt.Sprintf("%q belongs at the top, before the first [section]", name))
			return
		}
		section, isLeaf := strings.CutSuffix(key, "."+name)
		switch {
		case isLeaf && section == "listen":
			sections = append(sections, "[[listen]]")
		case isLeaf:
			sections = append(sections, "["+section+"]")
		}
	}
	if len(sections) > 0 {
		d.fail(n, "unknown key here", fmt.Sprintf("%q belongs under %s", name, strings.Join(sections, " or ")))
		return
	}
	d.fail(n, "unknown key", "known here: "+strings.Join(known, ", "))
}

// faulty says whether something is wrong with the node already; what it holds is then
// the default.
func (d *decoder) faulty(n *node) bool {
	return n != nil && slices.ContainsFunc(d.errs, func(e Error) bool {
		return e.File == n.file && e.Line == n.line && e.Column == n.column && e.Key == n.key
	})
}

// wrong reports a value of the wrong kind.
func (d *decoder) wrong(n *node, want, hint string) {
	d.fail(n, "must be "+want+", not "+n.kind(), hint)
}

func (n *node) kind() string {
	switch {
	case n.table != nil:
		return "a table"
	case n.isList:
		return "a list"
	}
	switch n.scalar.(type) {
	case string:
		return "a string"
	case int64:
		return "a number"
	case float64:
		return "a number with a fraction"
	case bool:
		return "true or false"
	}
	return "a date"
}

// value decodes one value by the type of the field it goes to, and where fields of
// one type differ, by the form in the field's tag:
//
//	path     made absolute
//	paths    each made absolute
//	files    the same; one alone needs no list, and '-' may stand before each
//	command  the first made absolute, if there is a slash in it
//	workers  a number, or "max" for 0
//	file     a size that a file can have, and never none
func (d *decoder) value(n *node, into reflect.Value, form string) {
	switch p := into.Addr().Interface().(type) {
	case *time.Duration:
		d.duration(n, p)
	case *fs.FileMode:
		if v, ok := d.octal(n); ok {
			*p = fs.FileMode(v)
		}
	case **int:
		if v, ok := d.octal(n); ok && n.scalar != "" {
			*p = &v
		}
	case *int:
		if form == "workers" {
			d.workers(n, p)
		} else {
			d.integer(n, p)
		}
	case *int64:
		d.size(n, p, form)
	case *bool:
		d.boolean(n, p)
	case *[]string:
		d.strings(n, p, form)
	case *[]int:
		d.integers(n, p)
	case *map[string]string:
		d.stringTable(n, p)
	case *[]Listener:
		d.listeners(n, p)
	case *[]CanaryStep:
		d.canary(n, p)
	case *[]DrainSignal:
		d.drainSignals(n, p)
	default:
		if into.Kind() == reflect.Struct {
			d.table(n, into, tagged(into.Type()))
		} else if s, ok := d.string(n); ok {
			if form == "path" {
				s = d.path(n, s)
			}
			into.SetString(s)
		}
	}
}

func (d *decoder) string(n *node) (string, bool) {
	s, ok := n.scalar.(string)
	if !ok {
		hint := ""
		switch n.scalar.(type) {
		case int64, float64, bool:
			hint = fmt.Sprintf("write %q in quotes", fmt.Sprint(n.scalar))
		}
		d.wrong(n, "a string", hint)
		return "", false
	}
	if strings.ContainsRune(s, 0) {
		d.fail(n, "must not hold a NUL character", "remove \\u0000")
		return "", false
	}
	return s, true
}

func (d *decoder) integer(n *node, into *int) {
	v, ok := n.scalar.(int64)
	if !ok {
		hint := ""
		if s, isString := n.scalar.(string); isString {
			if _, err := strconv.Atoi(s); err == nil {
				hint = "write " + s + " without quotes"
			}
		}
		d.wrong(n, "a whole number", hint)
		return
	}
	if v < 0 || v > math.MaxInt32 {
		d.fail(n, fmt.Sprintf("%d is out of range", v), "")
		return
	}
	*into = int(v)
}

func (d *decoder) integers(n *node, into *[]int) {
	if !n.isList {
		d.wrong(n, "a list of whole numbers", "")
		return
	}
	result := make([]int, len(n.list))
	for i, item := range n.list {
		d.integer(item, &result[i])
	}
	*into = result
}

func (d *decoder) boolean(n *node, into *bool) {
	v, ok := n.scalar.(bool)
	if !ok {
		hint := ""
		if s, isString := n.scalar.(string); isString && (s == "true" || s == "false") {
			hint = "write " + s + " without quotes"
		}
		d.wrong(n, "true or false", hint)
		return
	}
	*into = v
}

func (d *decoder) duration(n *node, into *time.Duration) {
	switch v := n.scalar.(type) {
	case string:
		parsed, err := time.ParseDuration(v)
		switch {
		case err == nil && parsed < 0:
			d.fail(n, "must not be negative", `write "0s" for none`)
		case err == nil:
			*into = parsed
		case isNumber(v):
			d.fail(n, fmt.Sprintf("%q has no unit", v), fmt.Sprintf(`write %q for seconds; the units are ms, s, m, h`, v+"s"))
		default:
			d.fail(n, fmt.Sprintf("%q is not a duration", v), `write it as in "500ms", "30s" or "1m30s"`)
		}
	case int64, float64:
		d.fail(n, fmt.Sprintf("%v has no unit", v), fmt.Sprintf(`write "%vs" for seconds; the units are ms, s, m, h`, v))
	default:
		d.wrong(n, "a duration", `write it as in "500ms", "30s" or "1m30s"`)
	}
}

func isNumber(s string) bool {
	_, err := strconv.ParseFloat(s, 64)
	return err == nil
}

// octal reads permission bits written as a string; "" is 0.
func (d *decoder) octal(n *node) (int, bool) {
	const hint = `write it in quotes and in octal, as in "0660"`
	s, ok := n.scalar.(string)
	if !ok {
		d.wrong(n, "a string of octal digits", hint)
		return 0, false
	}
	if s == "" {
		return 0, true
	}
	v, err := strconv.ParseUint(s, 8, 32)
	if err != nil || v > 0o777 {
		d.fail(n, fmt.Sprintf("%q is not made of permission bits", s), hint)
		return 0, false
	}
	return int(v), true
}

func (d *decoder) strings(n *node, into *[]string, form string) {
	list := n.list
	switch one, isString := n.scalar.(string); {
	case isString && form == "files":
		if one != "" {
			list = []*node{n}
		}
	case isString && form == "command" && strings.TrimSpace(one) != "":
		quoted := strings.Fields(one)
		for i := range quoted {
			quoted[i] = strconv.Quote(quoted[i])
		}
		d.wrong(n, "a list", "write ["+strings.Join(quoted, ", ")+"]")
		return
	case isString:
		d.wrong(n, "a list", fmt.Sprintf("write [%q]", one))
		return
	case !n.isList:
		d.wrong(n, "a list of strings", "")
		return
	}
	result := make([]string, 0, len(list))
	for i, item := range list {
		s, ok := d.string(item)
		if !ok {
			continue
		}
		switch {
		case form == "files":
			optional := strings.HasPrefix(s, "-")
			if s = d.path(item, strings.TrimPrefix(s, "-")); optional {
				s = "-" + s
			}
		case form == "paths":
			s = d.path(item, s)
		case form == "command" && i == 0 && strings.Contains(s, "/"):
			s = d.path(item, s)
		}
		result = append(result, s)
	}
	*into = result
}

// path makes a path absolute: from the file's directory, or from the working
// directory for what came from the command line. Symlinks stay: they are resolved at each swap.
func (d *decoder) path(n *node, path string) string {
	switch {
	case path == "~" || strings.HasPrefix(path, "~/"):
		d.fail(n, fmt.Sprintf("%q: ~ is not expanded here", path), "write the whole path")
		return path
	case path == "" || filepath.IsAbs(path):
		return path
	}
	absolute, err := filepath.Abs(filepath.Join(n.dir, path))
	if err != nil {
		d.fail(n, err.Error(), "write an absolute path")
	}
	return absolute
}

func (d *decoder) stringTable(n *node, into *map[string]string) {
	if n.table == nil {
		d.wrong(n, "a table", `write it as in { KEY = "value" }`)
		return
	}
	result := make(map[string]string, len(n.table))
	for _, name := range slices.Sorted(maps.Keys(n.table)) {
		if s, ok := d.string(n.table[name]); ok {
			result[name] = s
		}
	}
	*into = result
}

func (d *decoder) listeners(n *node, into *[]Listener) {
	if !n.isList {
		d.wrong(n, "a list of tables", "write the header as [[listen]]")
		return
	}
	names, known := listenerNames(n), tagged(reflect.TypeFor[Listener]())
	result := make([]Listener, len(n.list))
	for i, item := range n.list {
		result[i] = DefaultListener()
		d.table(item, reflect.ValueOf(&result[i]).Elem(), known)
		result[i].Name = names[i]
	}
	*into = result
}

// Keys returns every key there is, sections first named with their keys:
// "name", "command.exec", "listen.address" and so on, in the order of the struct.
func Keys() []string {
	var keys []string
	var walk func(prefix string, t reflect.Type)
	walk = func(prefix string, t reflect.Type) {
		if t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		for _, f := range keysOf(t) {
			tag := f.Tag.Get("toml")
			if f.Type.Kind() == reflect.Struct || f.Type == reflect.TypeFor[[]Listener]() {
				walk(prefix+tag+".", f.Type)
				continue
			}
			keys = append(keys, prefix+tag)
		}
	}
	walk("", reflect.TypeFor[Config]())
	return keys
}

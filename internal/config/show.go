package config

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MarshalJSON writes the configuration with the keys and the forms of the file:
// durations as "30s", modes as "0660". What is unset is the empty string; the
// file, the profile chosen and all profiles stand beside the keys.
func (c *Config) MarshalJSON() ([]byte, error) {
	m := plain(reflect.ValueOf(c).Elem(), "").(map[string]any)
	m["file"], m["profile"], m["profiles"] = c.File, c.Profile, append([]string{}, c.Profiles...)
	return json.Marshal(m)
}

// plain gives a value as TOML and JSON have it; form is that of the field's tag.
func plain(v reflect.Value, form string) any {
	switch x := v.Interface().(type) {
	case time.Duration:
		return shortDuration(x)
	case fs.FileMode:
		if x == 0 {
			return ""
		}
		return fmt.Sprintf("%04o", uint32(x))
	case *int:
		if x == nil {
			return ""
		}
		return fmt.Sprintf("%04o", *x)
	case map[string]string:
		if x == nil {
			return map[string]string{}
		}
	case []string:
		if x == nil {
			return []string{}
		}
	case int:
		if form == "workers" && x == 0 {
			return "max"
		}
	case int64:
		return sizeText(x)
	case []int:
		if x == nil {
			return []int{}
		}
	case []DrainSignal:
		if len(x) == 1 && x[0].After == 0 {
			return []string{x[0].Signal}
		}
		return plainList(v)
	case []Listener, []CanaryStep:
		return plainList(v)
	}
	if v.Kind() != reflect.Struct {
		return v.Interface()
	}
	m := map[string]any{}
	for tag, f := range tagged(v.Type()) {
		m[tag] = plain(v.FieldByIndex(f.Index), f.Tag.Get("form"))
	}
	return m
}

func plainList(v reflect.Value) []any {
	list := make([]any, v.Len())
	for i := range list {
		list[i] = plain(v.Index(i), "")
	}
	return list
}

// shortDuration drops the zero units that time.Duration writes: 1m0s is 1m.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// String writes the configuration as a file that says everything and has no
// profile; parsed again it gives the same Config.
func (c *Config) String() string {
	var b strings.Builder
	writeStruct(&b, "", reflect.ValueOf(c).Elem())
	return strings.TrimLeft(b.String(), "\n")
}

// writeStruct writes the keys of a table, and then its own tables. path is the
// header's, "" at the top.
func writeStruct(b *strings.Builder, path string, v reflect.Value) {
	writeKeys(b, path, "["+path+"]", v)
	for _, f := range keysOf(v.Type()) {
		field := v.FieldByIndex(f.Index)
		inner := strings.TrimPrefix(path+"."+f.Tag.Get("toml"), ".")
		switch listeners, isList := field.Interface().([]Listener); {
		case isList:
			for _, l := range listeners {
				writeKeys(b, inner, "[["+inner+"]]", reflect.ValueOf(l))
			}
		case field.Kind() == reflect.Struct:
			writeStruct(b, inner, field)
		}
	}
}

// writeKeys writes a header, unless nothing stands below it, and the keys.
func writeKeys(b *strings.Builder, path, header string, v reflect.Value) {
	var keys strings.Builder
	for _, f := range keysOf(v.Type()) {
		field := v.FieldByIndex(f.Index)
		if _, isList := field.Interface().([]Listener); !isList && field.Kind() != reflect.Struct {
			keys.WriteString(f.Tag.Get("toml") + " = " + tomlValue(plain(field, f.Tag.Get("form"))) + "\n")
		}
	}
	if path != "" && keys.Len() > 0 {
		b.WriteString("\n" + header + "\n")
	}
	b.WriteString(keys.String())
}

func tomlValue(v any) string {
	switch x := v.(type) {
	case []string:
		return tomlList(x)
	case []int:
		return tomlList(x)
	case []any:
		return tomlList(x)
	case map[string]string:
		var items []string
		for _, key := range slices.Sorted(maps.Keys(x)) {
			items = append(items, tomlString(key)+" = "+tomlString(x[key]))
		}
		return "{" + strings.Join(items, ", ") + "}"
	case map[string]any: // of a struct: its keys need no quotes
		var items []string
		for _, key := range slices.Sorted(maps.Keys(x)) {
			items = append(items, key+" = "+tomlValue(x[key]))
		}
		return "{" + strings.Join(items, ", ") + "}"
	case int:
		return strconv.Itoa(x)
	case bool:
		return strconv.FormatBool(x)
	}
	return tomlString(fmt.Sprint(v))
}

func tomlList[T any](list []T) string {
	items := make([]string, len(list))
	for i := range list {
		items[i] = tomlValue(list[i])
	}
	return "[" + strings.Join(items, ", ") + "]"
}

// tomlString quotes as TOML wants it, which knows fewer escapes than Go.
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteRune('\\')
			b.WriteRune(c)
		case c < 0x20 || c == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Quote writes a string or a list of strings as TOML.
func Quote[T string | []string](v T) string { return tomlValue(v) }

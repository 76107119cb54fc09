package config

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// required are the keys without a default; the example and its reader share them.
var required = map[string]bool{"command.exec": true, "listen.address": true}

// uncommented turns "#key = value" and "#[section]" into what they stand for.
var uncommented = regexp.MustCompile(`(?m)^#([a-z_.]+ = |\[)`)

func TestExampleInTheRootIsTheOneBuiltIn(t *testing.T) {
	text, err := os.ReadFile("../../config.toml.example")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Example, string(text)); diff != "" {
		t.Errorf("config.toml.example differs from internal/config/example.toml (-built in +root):\n%s", diff)
	}
}

func TestExampleIsValidAsItStandsAndWithEveryLine(t *testing.T) {
	parse(t, Example, Options{})
	parse(t, uncommented.ReplaceAllString(Example, "$1"), Options{Profile: "staging"})
}

func TestExampleHasEveryKeyWithItsDefault(t *testing.T) {
	text := uncommented.ReplaceAllString(Example, "$1")
	root, wrong := document(text, "example", "/")
	if wrong != nil {
		t.Fatal(wrong)
	}
	for _, key := range Keys() {
		path := strings.Split(key, ".")
		n := root
		if path[0] == "listen" {
			n, path = root.find("listen").list[0], path[1:]
		}
		if n.find(path...) == nil {
			t.Errorf("%s is missing in the example", key)
		}
	}
	got := parse(t, text, Options{})
	want := Default()
	want.Name, want.Command.Exec = got.Name, got.Command.Exec
	l := DefaultListener()
	l.Name, l.Address = "listen-1", got.Listen[0].Address
	want.Listen = []Listener{l}
	want.File, want.Profiles = got.File, got.Profiles
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("values of the example that are not the default (-default +example):\n%s", diff)
	}
}

func TestExampleExplainsEveryKeyRightAboveIt(t *testing.T) {
	lines := strings.Split(Example, "\n")
	for i, line := range lines {
		isKey := regexp.MustCompile(`^#?[a-z_]+ = `).MatchString(line)
		if isKey && !strings.HasPrefix(lines[i-1], "# ") {
			t.Errorf("line %d: nothing is said about %s", i+1, line)
		}
	}
}

// The page has a heading for each key, in no other order than the sections of the
// code, and below it the default.
func TestConfigurationPageHasEveryKeyWithItsDefault(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^### (\\S+)\n\n(.+)$").FindAllStringSubmatch(string(page), -1) {
		found[m[1]] = m[2]
	}
	for _, key := range Keys() {
		line, ok := found[key]
		delete(found, key)
		if want := wantDefault(key); !ok {
			t.Errorf("no heading for %s", key)
		} else if !strings.HasSuffix(line, want) {
			t.Errorf("%s: %q does not end with %q", key, line, want)
		}
	}
	for key := range found {
		t.Errorf("%s is no key", key)
	}
}

// What a page shows as a file is one, as it stands or with a command and a listener.
func TestPagesShowValidFiles(t *testing.T) {
	for _, page := range []string{"configuration", "supervision", "programs", "logs"} {
		text, err := os.ReadFile("../../docs/" + page + ".md")
		if err != nil {
			t.Fatal(err)
		}
		blocks := regexp.MustCompile("(?ms)^```toml\n(.*?)^```").FindAllStringSubmatch(string(text), -1)
		if len(blocks) == 0 && page != "programs" {
			t.Errorf("no file is shown in %s.md", page)
		}
		for _, m := range blocks {
			whole := m[1]
			if !regexp.MustCompile(`(?m)^(\[command\]|command)`).MatchString(whole) {
				whole = "command.exec = ['x']\n" + whole
			}
			if !regexp.MustCompile(`(?m)^(\[\[listen|listen)`).MatchString(whole) {
				whole = "listen = [{ address = ':80' }]\n" + whole
			}
			if _, err := Parse(whole, page+".toml", Options{}); err != nil {
				t.Errorf("%v\nof\n%s", err, whole)
			}
		}
	}
}

// wantDefault is how the page must give a key's default: as the file writes it.
func wantDefault(key string) string {
	if required[key] {
		return "required"
	}
	c := Default()
	c.Listen = []Listener{DefaultListener()}
	section, leaf := "", key
	if dot := strings.LastIndexByte(key, '.'); dot >= 0 {
		section, leaf = key[:dot], key[dot+1:]
	}
	lines := strings.Split(c.String(), "\n")
	at := 0
	if section != "" {
		at = slices.IndexFunc(lines, func(l string) bool { return strings.Trim(l, "[]") == section })
	}
	for _, l := range lines[at:] {
		if value, ok := strings.CutPrefix(l, leaf+" = "); ok {
			return "default `" + value + "`"
		}
	}
	return "no such key: " + key
}

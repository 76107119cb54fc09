package config

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "write the expected files under testdata/config anew")

const testdata = "../../testdata/config"

// golden compares got with the file, or writes it under -update.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// each runs f for the .toml files of a folder, of which there must be some.
func each(t *testing.T, folder string, f func(t *testing.T, base, text string)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(testdata, folder, "*.toml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files under %s/%s: %v", testdata, folder, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		base := strings.TrimSuffix(filepath.Base(file), ".toml")
		t.Run(base, func(t *testing.T) { f(t, base, string(text)) })
	}
}

// A valid file gives what stands beside it, for itself and for each profile.
func TestValidFiles(t *testing.T) {
	each(t, "valid", func(t *testing.T, base, text string) {
		c := parse(t, text, Options{})
		golden(t, filepath.Join(testdata, "valid", base+".want"), c.String())
		for _, profile := range c.Profiles {
			p := parse(t, text, Options{Profile: profile})
			if p.Profile != profile {
				t.Errorf("chosen profile is %q, want %q", p.Profile, profile)
			}
			golden(t, filepath.Join(testdata, "valid", base+"@"+profile+".want"), p.String())
		}
	})
}

// An invalid file gives exactly the errors that stand beside it, in order.
func TestInvalidFiles(t *testing.T) {
	each(t, "invalid", func(t *testing.T, base, text string) {
		c, err := Parse(text, base+".toml", Options{})
		if err == nil {
			t.Fatalf("parsed:\n%s", c)
		}
		golden(t, filepath.Join(testdata, "invalid", base+".err"), err.Error()+"\n")
	})
}

func parse(t *testing.T, text string, o Options) *Config {
	t.Helper()
	c, err := Parse(text, "/etc/baton/app.toml", o)
	if err != nil {
		t.Fatalf("%v\nof\n%s", err, text)
	}
	return c
}

const minimal = "command.exec = ['./server']\nlisten = [{address = ':80'}]\n"

func TestStringParsesBackToTheSameConfig(t *testing.T) {
	each(t, "valid", func(t *testing.T, _, text string) {
		c := parse(t, text, Options{})
		again := parse(t, c.String(), Options{})
		again.Profiles = c.Profiles // String leaves them out
		if diff := cmp.Diff(c, again, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-first +again):\n%s\nof\n%s", diff, c)
		}
	})
}

func TestJSONUsesTheKeysAndFormsOfTheFile(t *testing.T) {
	c := parse(t, minimal+"handoff.ready_timeout = '90s'\n[profile.x]\n", Options{Profile: "x"})
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	handoff := m["handoff"].(map[string]any)
	listen := m["listen"].([]any)[0].(map[string]any)
	got := []any{m["file"], m["profile"], m["profiles"], handoff["ready_timeout"], handoff["bake"], listen["mode"], listen["address"]}
	want := []any{"/etc/baton/app.toml", "x", []any{"x"}, "1m30s", "0s", "", ":80"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestUnknownProfileNamesTheKnownOnes(t *testing.T) {
	_, err := Parse(minimal+"[profile.b]\n[profile.a]\n", "app.toml", Options{Profile: "c"})
	want := `app.toml: no profile "c"; the file has a, b`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	_, err = Parse(minimal, "app.toml", Options{Profile: "c"})
	want = `app.toml: no profile "c"; the file has no [profile.NAME] section`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestFileMayBeIncompleteWithoutItsProfile(t *testing.T) {
	text := "[profile.x]\n" + minimal
	if c := parse(t, text, Options{Profile: "x"}); c.Listen[0].Address != ":80" {
		t.Errorf("address is %q", c.Listen[0].Address)
	}
	if _, err := Parse(text, "app.toml", Options{}); err == nil {
		t.Error("parsed without the profile although it has neither command nor listener")
	}
	if _, err := Parse("name = 1\n"+text+"name = 'x'\n", "app.toml", Options{Profile: "x"}); err == nil {
		t.Error("parsed although the file without the profile has a number for a name")
	}
}

func TestSettingsWinOverFileAndProfile(t *testing.T) {
	text := minimal + "handoff = {bake = '1s', drain_delay = '1s'}\n[profile.x.handoff]\nbake = '2s'\n"
	c := parse(t, text, Options{Profile: "x", Set: []Setting{
		{Key: "name", Value: "flagged", From: "--name"},
		{Key: "handoff.bake", Value: "3s", From: "--bake"},
		{Key: "command.exec", Value: []string{"sleep", "1"}, From: "command line"},
		{Key: "listen", Value: []map[string]any{{"name": "a", "address": ":1"}, {"address": ":2"}}, From: "--listen"},
	}})
	got := []any{c.Name, c.Handoff.Bake, c.Handoff.DrainDelay, c.Command.Exec, len(c.Listen), c.Listen[0].Name, c.Listen[1].Name, c.Listen[1].Backlog}
	want := []any{"flagged", 3 * time.Second, time.Second, []string{"sleep", "1"}, 2, "a", "listen-1", 4096}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSettingsErrorNamesTheFlag(t *testing.T) {
	_, err := Parse(minimal, "app.toml", Options{Set: []Setting{
		{Key: "handoff.ready_timeout", Value: "30", From: "--ready-timeout"},
	}})
	want := `--ready-timeout: handoff.ready_timeout: "30" has no unit; write "30s" for seconds; the units are ms, s, m, h`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// Settings meant for the chosen profile must not break another one, and may
// supply what every profile lacks.
func TestSettingsAndTheProfilesNotChosen(t *testing.T) {
	udp := minimal + "[profile.dns]\nlisten = [{name = 'listen-1', address = 'udp://:53'}]\nhandoff.ready = 'notify'\n"
	parse(t, udp, Options{Set: []Setting{{Key: "handoff.ready", Value: "accept", From: "--ready"}}})

	bare := "command.exec = ['x']\n[profile.a]\nname = 'a'\n"
	listen := Setting{Key: "listen", Value: []map[string]any{{"address": ":1"}}, From: "--listen"}
	parse(t, bare, Options{Set: []Setting{listen}})
}

func TestRelativePathsStartFromTheFile(t *testing.T) {
	c := parse(t, "command = {exec = ['./bin/../server', './arg'], directory = 'current', env_file = ['-a', '/b']}\nlisten = [{address = ':80'}]\n", Options{})
	got := append(append(c.Command.Exec, c.Command.EnvFile...), c.Command.Directory)
	want := []string{"/etc/baton/server", "./arg", "-/etc/baton/a", "/b", "/etc/baton/current"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRelativePathsOfSettingsStartFromTheWorkingDirectory(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	c := parse(t, minimal, Options{Set: []Setting{{Key: "command.exec", Value: []string{"./mine"}, From: "command line"}}})
	if want := filepath.Join(dir, "mine"); c.Command.Exec[0] != want {
		t.Errorf("exec is %q, want %q", c.Command.Exec[0], want)
	}
}

func TestAddressIsJudgedAtItsPlace(t *testing.T) {
	refuse := func(address string) error {
		if address == ":99999" {
			return errors.New("port out of range")
		}
		return nil
	}
	_, err := Parse("command.exec = ['x']\n[[listen]]\naddress = ':1'\n[[listen]]\n\n  address = ':99999'\n", "app.toml", Options{Address: refuse})
	want := "app.toml:6:3: listen[1].address: port out of range"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestNameComesFromTheProgram(t *testing.T) {
	for exec, want := range map[string]string{
		"/usr/bin/server": "server", "./.hidden": "hidden", "my app!": "my-app-", "/": "app", "...": "app",
		strings.Repeat("x", 100): strings.Repeat("x", 64),
	} {
		if got := nameFrom(exec); got != want || !validName(got) {
			t.Errorf("nameFrom(%q) = %q (valid: %v), want %q", exec, got, validName(got), want)
		}
	}
}

func TestLoadNamesTheFileItCannotRead(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.toml")
	if err := os.WriteFile(large, make([]byte, maxSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing.toml")
	for path, want := range map[string]string{
		missing: missing + ": open: no such file or directory",
		dir:     dir + ": read: is a directory",
		large:   large + ": larger than 1048576 bytes: not a configuration",
	} {
		_, err := Load(path, Options{})
		var all Errors
		if !errors.As(err, &all) || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestLoadWithoutAFileLivesBySettings(t *testing.T) {
	_, err := Load("", Options{})
	if err == nil || strings.Contains(err.Error(), ":0") || !strings.Contains(err.Error(), "command.exec: missing") {
		t.Errorf("without anything: %v", err)
	}
	c, err := Load("", Options{Set: []Setting{
		{Key: "command.exec", Value: []string{"true"}, From: "command line"},
		{Key: "listen", Value: []map[string]any{{"address": ":0"}}, From: "--listen"},
	}})
	if err != nil || c.File != "" || c.Name != "true" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestErrorsUnwrapToSingleOnes(t *testing.T) {
	_, err := Parse("a = 1\nb = 2\n", "app.toml", Options{})
	var one Error
	if !errors.As(err, &one) || one.Line != 1 {
		t.Errorf("first error is %+v of %v", one, err)
	}
}

package cli

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"baton/internal/config"

	"github.com/urfave/cli/v2"
)

func helps() map[string]string {
	app := (&program{stdout: os.Stdout, stderr: os.Stderr}).app()
	all := map[string]string{"": app.CustomAppHelpTemplate}
	for _, c := range app.Commands {
		all[c.Name] = c.CustomHelpTemplate
	}
	return all
}

func TestHelpFitsEightyColumnsAndEndsWithTheExitCodes(t *testing.T) {
	for name, text := range helps() {
		for i, line := range strings.Split(text, "\n") {
			if len(line) > helpWidth || strings.TrimRight(line, " ") != line {
				t.Errorf("help of %q, line %d is too wide or ends in a blank: %q", name, i+1, line)
			}
		}
		if strings.Contains(text, "{{") { // the library would take it for a template
			t.Errorf("help of %q holds {{", name)
		}
		if !regexp.MustCompile(`\nExit codes:\n  0  done\n  1  failed\n  2  wrong usage\n(  \d  .*\n)*$`).MatchString(text) {
			t.Errorf("help of %q does not end with the exit codes:\n%s", name, text)
		}
	}
}

func TestEveryFlagIsExplained(t *testing.T) {
	app := (&program{}).app()
	for _, c := range app.Commands {
		if c.Usage == "" || len(c.Usage) > helpWidth-textColumn {
			t.Errorf("%s: its line in the list of commands is empty or breaks: %q", c.Name, c.Usage)
		}
		for _, f := range c.Flags {
			if slices.Contains(f.Names(), "help") || hidden(f) {
				continue
			}
			if doc, ok := f.(cli.DocGenerationFlag); !ok || doc.GetUsage() == "" {
				t.Errorf("%s --%s: nothing is said about it", c.Name, f.Names()[0])
			}
		}
	}
}

// hidden flags are how baton calls itself.
func hidden(f cli.Flag) bool {
	v, ok := f.(cli.VisibleFlag)
	return ok && !v.IsVisible()
}

// Each flag that stands for a key names one that the file has.
func TestSettingFlagsNameKeysOfTheFile(t *testing.T) {
	for _, f := range settingFlags {
		if !slices.Contains(config.Keys(), f.key) {
			t.Errorf("--%s stands for %s, which is no key", f.flag, f.key)
		}
	}
}

// docs/cli.md has each command with exactly its flags, and each exit code.
func TestPageHasEveryCommandFlagAndExitCode(t *testing.T) {
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, s := range strings.Split(string(text), "\n## ")[1:] {
		title, body, _ := strings.Cut(s, "\n")
		sections[title] = body
	}
	for _, c := range (&program{}).app().Commands {
		body, ok := sections["baton "+c.Name]
		if !ok {
			t.Errorf("no section for %s", c.Name)
			continue
		}
		inRows := regexp.MustCompile("(?m)^\\| `--([a-z-]+)").FindAllStringSubmatch(body, -1)
		var documented, real []string
		for _, m := range inRows {
			documented = append(documented, m[1])
		}
		for _, f := range c.Flags {
			if name := f.Names()[0]; name != "help" && !hidden(f) {
				real = append(real, name)
			}
		}
		slices.Sort(documented)
		slices.Sort(real)
		if !slices.Equal(documented, real) {
			t.Errorf("%s: the page has %v, the command %v", c.Name, documented, real)
		}
	}
	for code, meaning := range codes {
		if row := fmt.Sprintf("| %d | %s |", code, meaning); !strings.Contains(sections["Exit codes"], row) {
			t.Errorf("no row %q", row)
		}
	}
}

func TestWrapBreaksBetweenWordsOnly(t *testing.T) {
	long := strings.Repeat("x", helpWidth+5)
	for text, want := range map[string]string{
		"":                         "",
		"a  b\nc":                  "> a b c",
		long + " y":                "> " + long + "\n  y",
		strings.Repeat("abc ", 20): "> " + strings.TrimSpace(strings.Repeat("abc ", 19)) + "\n  abc",
	} {
		got := wrap(text, "> ", "  ")
		if text == "" {
			want = ">"
		}
		if got != want {
			t.Errorf("wrap(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestQuotedIsWhatAShellTakes(t *testing.T) {
	for want, words := range map[string][]string{
		"./server -v":     {"./server", "-v"},
		"'' 'a b' '$x'":   {"", "a b", "$x"},
		`'it'\''s' 'a"b'`: {"it's", `a"b`},
	} {
		if got := quoted(words); got != want {
			t.Errorf("quoted(%q) = %s, want %s", words, got, want)
		}
	}
}

package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// Help is written out here instead of left to the library's templates, so that it
// stays within 80 columns and every verb ends with its exit codes.

const helpWidth = 80

// verb is what a command's help says besides its flags.
type verb struct {
	name string
	line string   // what follows `baton NAME`
	does string   // one line, for the list of commands
	text string   // paragraphs, separated by an empty line; indented lines are kept
	ends []Code   // besides Done, Failed and Usage
	also []string // other names
}

// command makes a Command of a verb, its flags and what it does.
func command(v verb, flags []cli.Flag, action cli.ActionFunc) *cli.Command {
	c := &cli.Command{Name: v.name, Aliases: v.also, Usage: v.does, ArgsUsage: v.line, Flags: flags, Action: action}
	c.Description, c.UsageText = strings.TrimSpace(v.text), codeHelp(append([]Code{Done, Failed, Usage}, v.ends...)) // for the manual
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage:\n", wrap(sentence(v.does), "", ""))
	fmt.Fprintf(&b, "%s\n", wrap("baton "+v.name+" "+v.line, "  ", "      "))
	if v.text != "" {
		b.WriteString("\n" + paragraphs(v.text))
	}
	b.WriteString("\nFlags:\n")
	for _, f := range flags {
		b.WriteString(flagHelp(f))
	}
	b.WriteString(entry("--help, -h", "show this"))
	b.WriteString("\n" + codeHelp(append([]Code{Done, Failed, Usage}, v.ends...)))
	c.CustomHelpTemplate = b.String()
	return c
}

func appHelp(app *cli.App) string {
	var b strings.Builder
	b.WriteString("baton - " + app.Usage + "\n\nUsage:\n  baton COMMAND [flags]\n\nCommands:\n")
	for _, c := range app.Commands {
		if !c.Hidden {
			b.WriteString(entry(c.Name, c.Usage))
		}
	}
	b.WriteString("\nFlags of each command: baton COMMAND --help\n\n")
	return b.String() + codeHelp([]Code{Done, Failed, Usage, RolledBack, NotRunning, Invalid, Busy})
}

func codeHelp(ends []Code) string {
	var b strings.Builder
	b.WriteString("Exit codes:\n")
	for _, code := range ends {
		fmt.Fprintf(&b, "  %d  %s\n", code, codes[code])
	}
	return b.String()
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] + "." }

// flagHelp takes the name of the value from the back-quoted word of the usage.
func flagHelp(f cli.Flag) string {
	doc, ok := f.(cli.DocGenerationFlag)
	if !ok || len(f.Names()) == 0 {
		return ""
	}
	text, head := doc.GetUsage(), "--"+f.Names()[0]
	for _, short := range f.Names()[1:] {
		head += ", -" + short
	}
	if before, rest, found := strings.Cut(text, "`"); found {
		value, after, _ := strings.Cut(rest, "`")
		text, head = before+value+after, head+" "+value
	}
	return entry(head, text)
}

const textColumn = 24

// entry is a word and what it means, in two columns.
func entry(head, text string) string {
	lead := fmt.Sprintf("  %-*s", textColumn-2, head)
	indent := strings.Repeat(" ", textColumn)
	if len(head) > textColumn-4 {
		return "  " + head + "\n" + wrap(text, indent, indent) + "\n"
	}
	return wrap(text, lead, indent) + "\n"
}

func paragraphs(text string) string {
	var b strings.Builder
	for i, p := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			b.WriteString("\n")
		}
		if strings.HasPrefix(p, "  ") {
			b.WriteString(p + "\n")
			continue
		}
		b.WriteString(wrap(p, "", "") + "\n")
	}
	return b.String()
}

// wrap breaks text between words at helpWidth; first leads the first line, rest
// the others.
func wrap(text, first, rest string) string {
	var b strings.Builder
	line, empty := first, true
	for _, word := range strings.Fields(text) {
		if !empty && len(line)+1+len(word) > helpWidth {
			b.WriteString(line + "\n")
			line, empty = rest, true
		}
		if !empty {
			line += " "
		}
		line, empty = line+word, false
	}
	return b.String() + strings.TrimRight(line, " ")
}

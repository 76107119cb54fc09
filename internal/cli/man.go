package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"
)

func (p *program) manCommand() *cli.Command {
	return command(verb{
		name: "man", line: "[flags]",
		does: "print the manual, for man(1)",
		text: `
The help of all commands as one page, baton(1).

  baton man | man -l -
  baton man --out /usr/local/share/man/man1`,
	}, []cli.Flag{
		&cli.StringFlag{Name: "out", Usage: "write it into the folder `DIR`, as baton.1"},
	}, p.man)
}

func (p *program) man(c *cli.Context) error {
	if c.NArg() > 0 {
		return usage("", "unexpected %q", c.Args().First())
	}
	text := manual(c.App)
	if !c.IsSet("out") {
		_, err := io.WriteString(p.stdout, text)
		return err
	}
	if c.String("out") == "" {
		return usage("", "--out: the path is empty")
	}
	path := filepath.Join(c.String("out"), "baton.1")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	_, err := fmt.Fprintf(p.stdout, "wrote %s\n", path)
	return err
}

// manual is the help as groff_man(7) has it. The library has a generator, which knows
// neither the texts nor the exit codes of a help that is written out here.
func manual(app *cli.App) string {
	var m roff
	b := thisBuild()
	m.line(`.TH BATON 1 "%s" "baton %s" "User Commands"`, built(), b.Version)
	m.line(".SH NAME")
	m.line("baton \\- %s", escape(app.Usage))
	m.line(".SH SYNOPSIS")
	m.line(".B baton")
	m.line(".I COMMAND")
	m.line("[flags]")
	m.line(".SH DESCRIPTION")
	m.line("%s", escape(`baton starts a server, owns its listening sockets, and replaces the server without losing a connection: a new generation of the program gets sockets of its own, and new connections once it is ready; then the old one drains and ends. Nothing proxies. Flags may stand behind names. The documentation has more: configuration, control socket, signals.`))
	m.line(".SH COMMANDS")
	for _, c := range app.Commands {
		if !c.Hidden {
			m.command(c)
		}
	}
	m.line(".SH EXIT STATUS")
	for code, meaning := range codes {
		m.item(fmt.Sprint(code), meaning)
	}
	m.line(".SH SIGNALS")
	m.item("HUP", "Read the file again and swap.")
	m.item("TERM, INT", "Drain and exit 0; a second one ends everything now.")
	m.item("QUIT", "End everything now.")
	m.line(".SH ENVIRONMENT")
	m.item("BATON_HOME", "Where control sockets and state lie; without it /run/baton for root, $XDG_RUNTIME_DIR/baton for others.")
	m.item("NO_COLOR", "No colours, whatever the terminal can do.")
	m.line(".SH FILES")
	m.item("baton.toml", "The configuration of this folder's application.")
	return m.String()
}

// built is the day of the commit that this is built from; the manual has no other date.
func built() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.time" && len(s.Value) >= len("2006-01-02") {
				return s.Value[:len("2006-01-02")]
			}
		}
	}
	return ""
}

// roff is a page that is being written.
type roff struct{ strings.Builder }

func (m *roff) line(format string, args ...any) { fmt.Fprintf(m, format+"\n", args...) }

func (m *roff) command(c *cli.Command) {
	m.line(".SS baton %s %s", escape(c.Name), escape(c.ArgsUsage))
	m.line("%s", escape(sentence(c.Usage)))
	if len(c.Aliases) > 0 {
		m.line(".PP\nAlso: %s.", escape(strings.Join(c.Aliases, ", ")))
	}
	for i, paragraph := range strings.Split(c.Description, "\n\n") {
		switch {
		case paragraph == "":
		case strings.HasPrefix(paragraph, "  ") || i == 0 && strings.HasPrefix(c.Description, "  "):
			m.line(".PP\n.RS 4\n.nf\n%s\n.fi\n.RE", escape(strings.ReplaceAll(strings.TrimPrefix(paragraph, "  "), "\n  ", "\n")))
		default:
			m.line(".PP\n%s", escape(paragraph))
		}
	}
	for _, f := range c.Flags {
		doc, ok := f.(cli.DocGenerationFlag)
		if !ok || f.Names()[0] == "help" {
			continue
		}
		text, head := doc.GetUsage(), "--"+f.Names()[0]
		for _, short := range f.Names()[1:] {
			head += ", -" + short
		}
		if before, rest, found := strings.Cut(text, "`"); found {
			value, after, _ := strings.Cut(rest, "`")
			text, head = before+value+after, head+" "+value
		}
		m.item(head, text)
	}
	var ends []string
	for line := range strings.Lines(strings.TrimPrefix(c.UsageText, "Exit codes:\n")) {
		ends = append(ends, strings.Fields(line)[0])
	}
	m.line(".PP\nExit status: %s.", strings.Join(ends, ", "))
}

func (m *roff) item(head, text string) {
	m.line(".TP\n.B %s\n%s", escape(head), escape(text))
}

// escape writes text so that it stands there as it is: a backslash, a dash, and what
// at the beginning of a line would be a request.
func escape(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

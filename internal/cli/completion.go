package cli

import (
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"

	"baton/internal/config"
	"baton/internal/control"

	"github.com/urfave/cli/v2"
)

// The shells ask baton itself what could come next, so that what they offer is what
// this baton has and runs: verbs, flags and their words, and names of applications. The
// library has completion too, but it knows neither names nor the words of a flag, and
// no flag behind a name.

//go:embed completion.bash
var bashCompletion string

//go:embed completion.zsh
var zshCompletion string

//go:embed completion.fish
var fishCompletion string

func (p *program) completionCommand() *cli.Command {
	return command(verb{
		name: "completion", line: "bash|zsh|fish",
		does: "print what makes a shell complete baton's words",
		text: `
Commands, flags, their words, and the names of the applications that run.

  source <(baton completion bash)                 # for this shell; or for good:
  baton completion bash > /etc/bash_completion.d/baton
  baton completion zsh > /usr/local/share/zsh/site-functions/_baton
  baton completion fish > ~/.config/fish/completions/baton.fish`,
	}, nil, p.completion)
}

func (p *program) completion(c *cli.Context) error {
	scripts := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	script, known := scripts[c.Args().First()]
	switch {
	case c.NArg() > 1:
		return usage("", "unexpected %q", c.Args().Get(1))
	case !known:
		return usage("baton completion bash, zsh or fish", "%q is no shell that is known here", c.Args().First())
	}
	_, err := io.WriteString(p.stdout, script)
	return err
}

// completeWord is what a shell's script calls baton with, before the words so far; the
// last of them is the one to be completed, and may be empty.
const completeWord = "__complete"

// candidate is a word that may come next.
type candidate struct{ word, about string }

// forFiles has the shell offer paths.
var forFiles = []candidate{{word: ":files"}}

// complete prints what may come next, a word on each line and behind a tab what it
// means. It never fails: there is nobody to tell.
func (p *program) complete(words []string) {
	app := p.app()
	for _, c := range candidates(app, words) {
		fmt.Fprintln(p.stdout, strings.TrimSuffix(c.word+"\t"+c.about, "\t"))
	}
}

func candidates(app *cli.App, words []string) []candidate {
	if len(words) == 0 {
		return nil
	}
	last := words[len(words)-1]
	before := words[:len(words)-1]
	if len(before) == 0 {
		return begin(last, append(verbs(app), candidate{"--help", "show this"}))
	}
	command := app.Command(before[0])
	switch {
	case before[0] == "help" && len(before) == 1:
		return begin(last, verbs(app))
	case command == nil:
		return nil
	}
	before = before[1:]
	if slices.Contains(before, "--") {
		return forFiles // another's command line
	}
	// bash takes --flag=value for three words, zsh and fish for one.
	if name, value, found := strings.Cut(last, "="); found && strings.HasPrefix(name, "-") {
		all := valuesOf(command, name, before)
		for i := range all {
			if all[i].word != forFiles[0].word {
				all[i].word = name + "=" + all[i].word
			}
		}
		return begin(name+"="+value, all)
	}
	if last == "=" {
		last = ""
	} else if n := len(before); n > 0 && before[n-1] == "=" {
		before = before[:n-1]
	}
	if n := len(before); n > 0 && strings.HasPrefix(before[n-1], "-") && takesValue(command, before[n-1]) {
		return begin(last, valuesOf(command, before[n-1], before))
	}
	if strings.HasPrefix(last, "-") {
		return begin(last, flagsOf(command, before))
	}
	return begin(last, operands(command, before))
}

// begin keeps those that begin as the word does.
func begin(word string, all []candidate) []candidate {
	return slices.DeleteFunc(all, func(c candidate) bool {
		return c.word != forFiles[0].word && !strings.HasPrefix(c.word, word)
	})
}

func verbs(app *cli.App) (all []candidate) {
	for _, c := range app.Commands {
		if !c.Hidden {
			all = append(all, candidate{c.Name, c.Usage})
		}
	}
	return append(all, candidate{"help", "show the help of a command"})
}

// flagsOf are those of a command that may still be given.
func flagsOf(c *cli.Command, before []string) (all []candidate) {
	for _, f := range c.Flags {
		doc, ok := f.(cli.DocGenerationFlag)
		name := "--" + f.Names()[0]
		if _, again := f.(*cli.StringSliceFlag); !ok || f.Names()[0] == "help" || slices.Contains(before, name) && !again {
			continue
		}
		all = append(all, candidate{name, strings.ReplaceAll(doc.GetUsage(), "`", "")})
	}
	return append(all, candidate{"--help", "show this"})
}

// valuesOf are the words that a flag takes, where there are few.
func valuesOf(c *cli.Command, flag string, before []string) []candidate {
	word := func(all ...string) (list []candidate) {
		for _, w := range all {
			list = append(list, candidate{word: w})
		}
		return list
	}
	name := strings.TrimLeft(flag, "-")
	for _, f := range c.Flags {
		if slices.Contains(f.Names(), name) {
			name = f.Names()[0]
		}
	}
	switch name {
	case "config", "watch", "out":
		return slices.Clone(forFiles)
	case "env":
		return word(profiles(before)...)
	case "ready":
		return word("auto", "notify", "accept", "http", "exec", "newline", "delay")
	case "workers":
		return word("max")
	case "log":
		return word("auto", "text", "json")
	case "log-level":
		return word("debug", "info", "warn", "error")
	}
	return nil
}

// profiles are those of the file that is named, or of ./baton.toml.
func profiles(before []string) []string {
	path := defaultFile
	for i, arg := range before {
		value, joined := strings.CutPrefix(arg, "--config=")
		switch {
		case joined:
			path = value
		case (arg == "--config" || arg == "-c") && i+1 < len(before):
			path = before[i+1]
		}
	}
	c, err := config.Load(path, config.Options{})
	if err != nil {
		return nil
	}
	return c.Profiles
}

// operands are what may stand there that is no flag.
func operands(c *cli.Command, before []string) (all []candidate) {
	switch c.Name {
	case "import":
		if slices.Contains(before, "pm2") {
			return slices.Clone(forFiles)
		}
		return []candidate{{"pm2", "an ecosystem file of PM2's"}}
	case "init":
		return slices.Clone(forFiles)
	case "completion":
		return []candidate{{word: "bash"}, {word: "zsh"}, {word: "fish"}}
	}
	if c.Category != talks {
		return nil
	}
	dir, err := control.Home()
	if err != nil {
		return nil
	}
	names, err := control.List(dir)
	if err != nil {
		return nil
	}
	for _, name := range names {
		if !slices.Contains(before, name) {
			all = append(all, candidate{word: printable(name), about: "runs"})
		}
	}
	return all
}

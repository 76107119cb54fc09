package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"baton/internal/config"
	"baton/internal/launcher"

	"github.com/urfave/cli/v2"
)

func (p *program) checkCommand() *cli.Command {
	return command(verb{
		name: "check", line: "[flags]",
		does: "say whether a configuration is right",
		text: `
Reads the file as run does, every profile included, and looks at the machine:
whether the command is there, accounts exist and addresses can be read. Nothing
is started or bound. Every error is printed, with its line; if there is none,
what run would do, and by which protocols the program is spoken to and why.`,
		ends: []Code{Invalid},
	}, []cli.Flag{
		configFlag(), envFlag(),
		&cli.BoolFlag{Name: "json", Usage: "print the configuration, or the errors, as JSON"},
	}, p.check)
}

// verdict is what check finds; its JSON is a promise to scripts.
type verdict struct {
	Valid bool `json:"valid"`
	// Machine is what the launcher found here: the executable that would run, and
	// the addresses in their one spelling, in the order of the file.
	Machine *launcher.Checked `json:"machine,omitempty"`
	Config  *config.Config    `json:"config,omitempty"`
	Errors  config.Errors     `json:"errors,omitempty"`
}

func (p *program) check(c *cli.Context) error {
	if c.NArg() > 0 {
		return usage("name a file with --config", "unexpected %q", c.Args().First())
	}
	path, err := file(c, false)
	if err != nil {
		return err
	}
	v := examine(path, c.String("env"))
	switch {
	case c.Bool("json"):
		out := json.NewEncoder(p.stdout)
		out.SetIndent("", "  ")
		out.SetEscapeHTML(false)
		if err := out.Encode(v); err != nil {
			return err
		}
	case v.Valid:
		return describe(p.stdout, path, v)
	default:
		fmt.Fprintln(p.stderr, v.Errors)
	}
	if !v.Valid {
		return shown(Invalid)
	}
	return nil
}

// examine reads the file and, where that is right, asks the launcher what the
// machine has to say to it.
func examine(path, profile string) verdict {
	cfg, err := config.Load(path, config.Options{Profile: profile, Address: parsable})
	var invalid config.Errors
	if errors.As(err, &invalid) {
		return verdict{Errors: invalid}
	}
	machine, err := launcher.Check(cfg)
	if err != nil {
		var found config.Errors
		for line := range strings.Lines(err.Error()) {
			found = append(found, config.Error{File: path, Problem: strings.TrimSpace(line)})
		}
		return verdict{Errors: found}
	}
	return verdict{Valid: true, Machine: &machine, Config: cfg}
}

// describe says what run would do with the file.
func describe(w io.Writer, path string, v verdict) error {
	c := v.Config
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s is right\n", path)
	row := func(head, text string) { fmt.Fprintf(t, "  %s\t%s\n", head, text) }
	row("name", c.Name)
	row("command", quoted(append([]string{v.Machine.Executable}, v.Machine.Args...)))
	for i, address := range v.Machine.Listeners {
		row("listen", c.Listen[i].Name+"="+address)
	}
	for _, kept := range supervised(c) {
		row(kept[0], kept[1])
	}
	for _, spoken := range v.Machine.Protocols {
		row("protocol", spoken.Name+" ("+spoken.Why+")")
	}
	if v.Machine.Note != "" {
		row("note", v.Machine.Note)
	}
	if c.Profile != "" {
		row("profile", c.Profile)
	}
	if len(c.Profiles) > 0 {
		row("profiles", strings.Join(c.Profiles, ", "))
	}
	return t.Flush()
}

// supervised says what is done beyond the usual, a row for each.
func supervised(c *config.Config) [][2]string {
	var rows [][2]string
	row := func(head string, format string, args ...any) {
		rows = append(rows, [2]string{head, fmt.Sprintf(format, args...)})
	}
	if h := c.Handoff; h.Workers != 1 {
		number := "one for each CPU"
		if h.Workers > 0 {
			number = strconv.Itoa(h.Workers)
		}
		if h.Slots == config.SlotsGeneration {
			number += ", all on one slot"
		}
		if h.Swap == config.SwapRolling {
			number += ", swapped one by one"
		}
		row("workers", "%s", number)
	}
	for _, step := range c.Handoff.Canary {
		until := "until baton promote"
		if !step.Pause {
			until = "for " + step.For.String()
		}
		row("canary", "%d %% by %s %s", step.Weight, c.Handoff.CanaryBy, until)
	}
	if live := c.Health.Live; live.Probe.Probe != "" {
		row("live", "%s every %s", live.Probe.Probe, live.Interval)
	}
	if l := c.Limits; l.Memory > 0 {
		row("limit", "%d MiB resident", l.Memory>>20)
	}
	if l := c.Limits; l.MemoryMax > 0 {
		row("limit", "%d MiB for a generation, by its control group", l.MemoryMax>>20)
	}
	if l := c.Limits; l.MaxAge > 0 {
		row("limit", "%s of age", l.MaxAge)
	}
	for _, path := range c.Watch {
		row("watch", "%s", path)
	}
	for _, hook := range []struct {
		on   string
		exec []string
	}{{"ready", c.Hooks.Ready}, {"swap", c.Hooks.Swap}, {"rollback", c.Hooks.Rollback}, {"crash", c.Hooks.Crash}, {"stuck", c.Hooks.Stuck}} {
		if len(hook.exec) > 0 {
			row("hook", "%s: %s", hook.on, quoted(hook.exec))
		}
	}
	return rows
}

// quoted writes words as a shell would take them.
func quoted(words []string) string {
	out := make([]string, len(words))
	for i, word := range words {
		out[i] = word
		if word == "" || strings.ContainsFunc(word, func(c rune) bool {
			return c <= ' ' || strings.ContainsRune("\"'\\$`*?[]{}()<>|&;~#!", c)
		}) {
			out[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(out, " ")
}

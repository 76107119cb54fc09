package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"baton/internal/config"

	"github.com/google/renameio/v2"
	"github.com/urfave/cli/v2"
)

func (p *program) initCommand() *cli.Command {
	return command(verb{
		name: "init", line: "[flags] [FILE] [-- CMD ARG...]",
		does: "write a configuration to begin with",
		text: `
Writes FILE, or baton.toml. With a command or a listener, it is a short file for
just that; without, it is the example that has every key with its default.

  baton init --listen :8080 -- ./server --verbose && baton run`,
	}, []cli.Flag{
		&cli.StringSliceFlag{Name: "listen", Aliases: []string{"l"}, Usage: "listen on `[NAME=]ADDR`; repeatable; without it :8080"},
		&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "overwrite a file that is there"},
	}, p.init)
}

func (p *program) init(c *cli.Context) error {
	before, exec, dashes := p.afterDashes(c)
	path := defaultFile
	switch {
	case len(before) > 1 && strings.HasPrefix(before[1], "-"):
		return usage("flags go before FILE", "unexpected %q", before[1])
	case len(before) > 1:
		return usage("put -- before the command", "unexpected %q", before[1])
	case len(before) == 1 && before[0] == "":
		return usage("", "the path of the file is empty")
	case len(before) == 1:
		path = before[0]
	}
	if dashes && len(exec) == 0 {
		return usage("add the command: -- ./server", "nothing stands behind --")
	}
	listen, err := listeners(c)
	if err != nil {
		return err
	}
	text := config.Example
	if len(exec) > 0 || len(listen) > 0 {
		if text, err = starter(path, exec, listen); err != nil {
			return err
		}
	}
	if _, err := config.Parse(text, path, config.Options{Address: parsable}); err != nil {
		return usage("", "what was given makes no valid file:\n%w", plainly{err})
	}
	if err := write(path, text, c.Bool("force")); err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "wrote %s\n", path)
	return err
}

// plainly hides that an error is config.Errors: the file it speaks of was never
// written, so its lines help nobody but its words do.
type plainly struct{ err error }

func (p plainly) Error() string { return p.err.Error() }

// starter writes a file for a command and its listeners. What is not given stands
// there as an example to change.
func starter(path string, exec []string, listen []map[string]any) (string, error) {
	if len(exec) == 0 {
		exec = []string{"./server"}
	} else if strings.Contains(exec[0], "/") && !filepath.IsAbs(exec[0]) {
		// Given from here, read from where the file lies.
		here, err := filepath.Abs(exec[0])
		if err != nil {
			return "", err
		}
		dir, err := filepath.Abs(filepath.Dir(path))
		if err != nil {
			return "", err
		}
		exec = append([]string{here}, exec[1:]...)
		if rest, ok := strings.CutPrefix(here, dir+"/"); ok {
			exec[0] = "./" + rest
		}
	}
	if len(listen) == 0 {
		listen = []map[string]any{{"address": ":8080"}}
	}
	var b strings.Builder
	b.WriteString("# A configuration of baton. Try it: baton check && baton run\n\n[command]\n")
	b.WriteString("# The program and its arguments; no shell reads it.\nexec = " + config.Quote(exec) + "\n")
	b.WriteString("#env = { KEY = \"value\" }\n#user = \"www-data\"\n")
	for _, l := range listen {
		b.WriteString("\n[[listen]]\n")
		if name, ok := l["name"].(string); ok {
			b.WriteString("name = " + config.Quote(name) + "\n")
		}
		b.WriteString("address = " + config.Quote(l["address"].(string)) + "\n")
	}
	d := config.Default().Handoff
	fmt.Fprintf(&b, `
[handoff]
# How a newcomer is known to be ready: "notify" if the program sends READY=1,
# "accept" when it accepts connections; "auto" finds out.
#ready = %q
# How long the old generation may take to finish what it has.
#drain_timeout = %q
`, d.Ready, d.DrainTimeout)
	return b.String(), nil
}

// write makes the file, whole or not at all. Without force, one that is there stays.
func write(path, text string, force bool) error {
	if force {
		if err := renameio.WriteFile(path, []byte(text), 0o644, renameio.WithExistingPermissions()); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return &exit{code: Failed, err: fmt.Errorf("%s is there already", path), hint: "--force overwrites it"}
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(path) // half a file is worse than none; the first error is the one to tell
	}
	return err
}

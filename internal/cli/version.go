package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"
)

// Version is set by the build of a release, with
// -ldflags "-X baton/internal/cli.Version=v1.2.3"; other builds know themselves by
// their commit.
var Version string

// build is what version tells; its JSON is a promise to scripts.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"` // built from a tree with changes
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
	Kernel   string `json:"kernel,omitempty"` // that it runs on
}

func (p *program) versionCommand() *cli.Command {
	return command(verb{
		name: "version", line: "[flags]",
		does: "print the version, what built it, and what it runs on",
	}, []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print it as JSON"}}, p.version)
}

func (p *program) version(c *cli.Context) error {
	if c.NArg() > 0 {
		return usage("", "unexpected %q", c.Args().First())
	}
	b := thisBuild()
	if c.Bool("json") {
		return json.NewEncoder(p.stdout).Encode(b)
	}
	line := "baton " + b.Version
	if b.Commit != "" {
		line += " (" + b.Commit[:min(12, len(b.Commit))]
		if b.Modified && !strings.HasSuffix(b.Version, "+dirty") {
			line += ", modified"
		}
		line += ")"
	}
	line += fmt.Sprintf(" %s %s/%s", b.Go, b.OS, b.Arch)
	if b.Kernel != "" {
		line += " kernel " + b.Kernel
	}
	_, err := fmt.Fprintln(p.stdout, line)
	return err
}

func thisBuild() build {
	b := build{Version: Version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		if b.Version == "" {
			b.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
	}
	if b.Version == "" {
		b.Version = "(devel)"
	}
	// Linux alone has the file (proc(5)); elsewhere the kernel is left out.
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		b.Kernel = strings.TrimSpace(string(release))
	}
	return b
}

package cli

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"baton/internal/config"
	"baton/internal/socket"

	"github.com/urfave/cli/v2"
)

// defaultFile is read when neither a file nor a command is given.
const defaultFile = "baton.toml"

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "read `FILE`; without it ./baton.toml, if there is one"}
}

func envFlag() cli.Flag {
	return &cli.StringFlag{Name: "env", Usage: "choose `PROFILE`, a [profile.PROFILE] of the file"}
}

func listenFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "listen", Aliases: []string{"l"}, Usage: "listen on `[NAME=]ADDR`; repeatable, replaces the file's listeners"}
}

func watchFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "watch", Usage: "swap when something changes in `PATH`; repeatable, replaces the file's"}
}

// nowFlag is of every verb that ends something: stop, restart, delete.
func nowFlag() cli.Flag {
	return &cli.BoolFlag{Name: "now", Usage: "kill instead of draining, as SIGQUIT does"}
}

// outcomesFlag is of every verb that starts something: start, restart.
func outcomesFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print what came of it as JSON: an object, or a list for several names"}
}

// settingFlags are the flags of run that stand for one key of the file.
var settingFlags = []struct{ flag, key, usage string }{
	{"name", "name", "call the application `NAME`"},
	{"workers", "handoff.workers", "run `N` processes, or max: one for each CPU that baton may use"},
	{"ready", "handoff.ready", "how a newcomer is known to be ready: `MODE` is auto, notify, accept, http, exec, newline or delay"},
	{"ready-timeout", "handoff.ready_timeout", "give a newcomer up after `TIME`"},
	{"ready-delay", "handoff.ready_delay", "with --ready delay: ready after `TIME`"},
	{"bake", "handoff.bake", "keep the old generation standing by for `TIME`"},
	{"drain-delay", "handoff.drain_delay", "leave the old generation without new connections for `TIME` before its signal"},
	{"drain-idle", "handoff.drain_idle", "wait up to `TIME` before its signal for its connections to end by themselves"},
	{"drain-timeout", "handoff.drain_timeout", "kill the old generation `TIME` after its signal"},
	{"log", "log.format", "write the log as `FORMAT`: auto, text or json"},
	{"log-level", "log.level", "write what is at least `LEVEL`: debug, info, warn or error"},
}

// settings turns the flags that were given into settings over the file.
func settings(c *cli.Context, exec []string) ([]config.Setting, error) {
	var set []config.Setting
	for _, f := range settingFlags {
		if c.IsSet(f.flag) {
			set = append(set, config.Setting{Key: f.key, Value: value(c.String(f.flag), f.key), From: "--" + f.flag})
		}
	}
	if c.IsSet("watch") {
		set = append(set, config.Setting{Key: "watch", Value: c.StringSlice("watch"), From: "--watch"})
	}
	if len(exec) > 0 {
		set = append(set, config.Setting{Key: "command.exec", Value: exec, From: commandLine})
	}
	listen, err := listeners(c)
	if err != nil {
		return nil, err
	}
	if len(listen) > 0 {
		set = append(set, config.Setting{Key: "listen", Value: listen, From: "--listen"})
	}
	return set, nil
}

// value is what the file would have for a flag: handoff.workers takes a number as
// well as a word.
func value(given, key string) any {
	if n, err := strconv.ParseInt(given, 10, 64); err == nil && key == "handoff.workers" {
		return n
	}
	return given
}

// listeners reads --listen [NAME=]ADDR as the file would have it.
func listeners(c *cli.Context) ([]map[string]any, error) {
	var list []map[string]any
	for _, given := range c.StringSlice("listen") {
		name, _, err := socket.ParseAddress(given)
		if err != nil {
			return nil, usage("", "--listen: %w", err)
		}
		l := map[string]any{"address": strings.TrimPrefix(given, name+"=")}
		if name != "" {
			l["name"] = name
		}
		list = append(list, l)
	}
	return list, nil
}

// file is the path of the configuration to read: the one given, else ./baton.toml
// unless a command stands in for it; "" when there is none.
func file(c *cli.Context, hasCommand bool) (string, error) {
	if given := c.String("config"); given != "" || c.IsSet("config") {
		if given == "" {
			return "", usage("", "--config: the path is empty")
		}
		return given, nil
	}
	if hasCommand {
		return "", nil
	}
	switch _, err := os.Stat(defaultFile); {
	case err == nil:
		return defaultFile, nil
	case errors.Is(err, fs.ErrNotExist):
		return "", usage("give a file (--config FILE), a command (-- CMD), or write a file with baton init",
			"nothing to run: there is no %s here", defaultFile)
	default:
		return "", err
	}
}

// parsable lets each address be judged where it is written; the address itself
// stands there already.
func parsable(address string) error {
	_, _, err := socket.ParseAddress(address)
	if cause := errors.Unwrap(err); cause != nil {
		return cause
	}
	return err
}

package protocol

import (
	_ "embed"
	"fmt"
	"strings"
)

//go:embed drain.cjs
var drainScript []byte

// preload is the file that node is told to load before the program. It lies where
// every user can read it, since workers may run as any. Node reads it again for each
// of its worker threads.
type preload struct{ dirs publicDirs }

const preloadName = "drain.cjs"

func newPreload() preload {
	return preload{publicDirs{prefix: "baton-node-", mode: 0o755}}
}

// file writes it, or finds it where it was.
func (p *preload) file() (string, error) {
	d, err := p.dirs.get()
	if err == nil && !d.has(preloadName) {
		err = d.write(preloadName, drainScript)
	}
	if err != nil {
		return "", fmt.Errorf("node preload: %w", err)
	}
	return d.join(preloadName), nil
}

// withPreload puts the preload before what is in NODE_OPTIONS: it takes itself out
// of there again, and looks for itself at the beginning. Node splits at blanks, and
// takes what is in double quotes as one.
func withPreload(path, existing string) string {
	if strings.ContainsAny(path, " \"\\") {
		path = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(path) + `"`
	}
	return strings.TrimSpace("--require=" + path + " " + existing)
}

// lookup is the value of key in env, where the last one wins.
func lookup(env []string, key string) (value string) {
	for _, kv := range env {
		if k, v, _ := strings.Cut(kv, "="); k == key {
			value = v
		}
	}
	return value
}

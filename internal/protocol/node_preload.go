package protocol

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

//go:embed drain.cjs
var drainScript []byte

// preload is the file that node is told to load before the program. It lies where
// every user can read it, since workers may run as any.
type preload struct {
	path string
	lock *os.File // the directory, locked
}

// file writes it, or finds it where it was.
func (p *preload) file() (string, error) {
	if p.path != "" {
		if _, err := os.Stat(p.path); err == nil {
			return p.path, nil
		}
		if err := p.remove(); err != nil { // somebody cleaned up: begin anew
			return "", err
		}
	}
	dir, err := os.MkdirTemp("", "baton-node-")
	if err != nil {
		return "", fmt.Errorf("node preload: %w", err)
	}
	p.path = filepath.Join(dir, "drain.cjs")
	if err := p.write(dir); err != nil {
		return "", errors.Join(fmt.Errorf("node preload: %w", err), p.remove())
	}
	return p.path, nil
}

func (p *preload) write(dir string) (err error) {
	// Whoever cleans up temporary files by age leaves alone what is locked
	// (tmpfiles.d(5)). Node reads the file again for each of its worker threads.
	if p.lock, err = os.Open(dir); err != nil {
		return err
	}
	if err := unix.Flock(int(p.lock.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	if err := os.WriteFile(p.path, drainScript, 0o444); err != nil {
		return err
	}
	// The umask took some of it away.
	return errors.Join(os.Chmod(p.path, 0o444), os.Chmod(dir, 0o755))
}

// remove removes it; what is gone already is as good.
func (p *preload) remove() error {
	if p.path == "" {
		return nil
	}
	err := os.RemoveAll(filepath.Dir(p.path))
	if p.lock != nil {
		p.lock.Close() // read only
	}
	*p = preload{}
	return err
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

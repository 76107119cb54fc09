package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// What a launcher has in the directory: its socket, and the lock by which its name
// is its own.
const (
	socketSuffix = ".sock"
	lockSuffix   = ".lock"
)

// Home is the directory in which the sockets of this user's launchers lie: run in
// $BATON_HOME where that is set; /run/baton for root; $XDG_RUNTIME_DIR/baton for
// others, and where there is no such directory run in $XDG_STATE_HOME/baton, which
// is ~/.local/state/baton unless it is set. It need not exist.
func Home() (string, error) { return home(os.Getenv, os.Geteuid()) }

func home(env func(string) string, uid int) (string, error) {
	if dir := env("BATON_HOME"); dir != "" {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("BATON_HOME: %w", err)
		}
		return filepath.Join(dir, "run"), nil
	}
	if uid == 0 {
		return rootHome, nil
	}
	// A path that is not absolute is to be ignored (XDG Base Directory Specification).
	for _, place := range []struct{ variable, below string }{
		{"XDG_RUNTIME_DIR", "baton"},
		{"XDG_STATE_HOME", "baton/run"},
		{"HOME", ".local/state/baton/run"},
	} {
		if dir := env(place.variable); filepath.IsAbs(dir) {
			return filepath.Join(dir, place.below), nil
		}
	}
	return "", errors.New("none of BATON_HOME, XDG_RUNTIME_DIR, XDG_STATE_HOME and HOME says where")
}

// Where is the directory in which an application is to be looked for that is named:
// dir, this user's own, unless only root has one of that name. Root may have let in a
// group that this user is of; to the others the kernel says no.
func Where(dir, name string) string { return where(dir, name, rootHome, os.Getenv) }

func where(dir, name, others string, env func(string) string) string {
	if env("BATON_HOME") != "" || !Fits(name) {
		return dir
	}
	if _, err := os.Lstat(filepath.Join(dir, name+socketSuffix)); err == nil {
		return dir
	}
	if _, err := os.Lstat(filepath.Join(others, name+socketSuffix)); err != nil {
		return dir
	}
	return others
}

// rootHome is the directory of root's launchers.
const rootHome = "/run/baton"

// Fits reports whether there can be an application of that name: it becomes the name
// of a file, and no other path.
func Fits(name string) bool {
	return name != "" && name[0] != '.' && !strings.ContainsAny(name, "/\x00")
}

// List names the applications whose launchers run, in order. A directory that is not
// there holds none.
func List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), socketSuffix)
		if !ok || !Fits(name) || e.Type() != fs.ModeSocket {
			continue
		}
		c, err := dial(filepath.Join(dir, e.Name()))
		switch {
		case absent(err):
			continue
		case err == nil:
			_ = c.Close() // nothing was said
		}
		names = append(names, name) // also one that cannot be asked: it is there
	}
	slices.Sort(names)
	return names, nil
}

package control

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
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

// State is the directory of what outlives a launcher and the machine's next start: lib
// in $BATON_HOME where that is set; /var/lib/baton for root; $XDG_STATE_HOME/baton,
// which is ~/.local/state/baton unless it is set. It need not exist.
func State() (string, error) { return kept(os.Getenv, os.Geteuid(), "lib", "/var/lib/baton", "") }

// Logs is the directory of the applications' logs, with a directory for each: log in
// $BATON_HOME where that is set; /var/log/baton for root; log in State for others. It
// need not exist.
func Logs() (string, error) { return kept(os.Getenv, os.Geteuid(), "log", "/var/log/baton", "log") }

func home(env func(string) string, uid int) (string, error) {
	place := []variable{{"XDG_RUNTIME_DIR", "baton"}, {"XDG_STATE_HOME", "baton/run"}, {"HOME", ".local/state/baton/run"}}
	return find(env, uid, "run", "/run/baton", place)
}

func kept(env func(string) string, uid int, own, root, below string) (string, error) {
	place := []variable{{"XDG_STATE_HOME", filepath.Join("baton", below)}, {"HOME", filepath.Join(".local/state/baton", below)}}
	return find(env, uid, own, root, place)
}

// variable is one of the environment that names a directory, and a place below that.
type variable struct{ name, below string }

// find is own in $BATON_HOME, or root for root, or the first of the places that the
// environment has.
func find(env func(string) string, uid int, own, root string, places []variable) (string, error) {
	if dir := env("BATON_HOME"); dir != "" {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("BATON_HOME: %w", err)
		}
		return filepath.Join(dir, own), nil
	}
	if uid == 0 {
		return root, nil
	}
	// A path that is not absolute is to be ignored (XDG Base Directory Specification).
	names := []string{"BATON_HOME"}
	for _, place := range places {
		if dir := env(place.name); filepath.IsAbs(dir) {
			return filepath.Join(dir, place.below), nil
		}
		names = append(names, place.name)
	}
	last := len(names) - 1
	return "", errors.New("none of " + strings.Join(names[:last], ", ") + " and " + names[last] + " says where")
}

// Fits reports whether there can be an application of that name: it becomes the name
// of a file, and no other path.
func Fits(name string) bool {
	return name != "" && name[0] != '.' && !strings.ContainsAny(name, "/\x00")
}

// Found is what the directory holds of one application.
type Found struct {
	Name    string
	Answers bool // somebody listens on its socket
	// PID is that in the lock, and Since when it was written there; 0: there is no
	// lock. A launcher that ends takes its lock away: whoever is not alive any more
	// and has one left was killed.
	PID   int
	Since time.Time
}

// Look lists what is there, in the order of the names. A directory that is not there
// holds nothing.
func Look(dir string) ([]Found, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found := map[string]*Found{}
	of := func(name string) *Found {
		if found[name] == nil {
			found[name] = &Found{Name: name}
		}
		return found[name]
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), socketSuffix); ok && Fits(name) && e.Type() == fs.ModeSocket {
			c, err := dial(filepath.Join(dir, e.Name()))
			if err == nil {
				_ = c.Close() // nothing was said
			}
			of(name).Answers = !absent(err) // also one that cannot be asked: it is there
		}
		if name, ok := strings.CutSuffix(e.Name(), lockSuffix); ok && Fits(name) && e.Type().IsRegular() {
			pid, since := held(filepath.Join(dir, e.Name()))
			of(name).PID, of(name).Since = pid, since
		}
	}
	all := make([]Found, 0, len(found))
	for _, name := range slices.Sorted(maps.Keys(found)) {
		all = append(all, *found[name])
	}
	return all, nil
}

// held is the pid in a lock, and since when; 0 when it cannot be read.
func held(path string) (int, time.Time) {
	info, err := os.Lstat(path)
	if err != nil || info.Size() > 32 {
		return 0, time.Time{}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, time.Time{}
	}
	pid, err := strconv.Atoi(strings.TrimSuffix(string(text), "\n"))
	if err != nil || pid < 1 {
		return 0, time.Time{}
	}
	return pid, info.ModTime()
}

// List names the applications whose launchers run, in order. A directory that is not
// there holds none.
func List(dir string) ([]string, error) {
	all, err := Look(dir)
	var names []string
	for _, f := range all {
		if f.Answers {
			names = append(names, f.Name)
		}
	}
	return names, err
}

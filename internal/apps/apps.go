// Package apps is what is known of an application while it does not run: how baton
// start started it, and whether it comes back at boot. One file per application, in a
// directory of the user's own.
//
// The invariant: a file is there whole or not at all, nobody else can read it, and one
// that cannot be read hides none of the others. The package never looks at what runs.
package apps

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/renameio/v2"
)

// App is one application.
type App struct {
	Name string `json:"name"`
	// Args are those of baton run, without the verb.
	Args      []string `json:"args"`
	Directory string   `json:"directory"` // that it is started in; absolute
	// Env is what its launcher has as environment: that of who started it first, KEY=VALUE.
	Env     []string  `json:"env"`
	Started time.Time `json:"started,omitzero"` // by baton start, the last time
	Saved   bool      `json:"saved,omitempty"`  // it comes back at boot
	// Unit is the path of the systemd unit that starts it at boot; "" when there is none.
	Unit string `json:"unit,omitempty"`
}

// Registry is a directory of them.
type Registry struct{ dir string }

// In is the registry below a state directory. It need not exist until Put.
func In(state string) Registry { return Registry{dir: filepath.Join(state, "apps")} }

const (
	suffix  = ".json"
	maxSize = 4 << 20 // an environment is at most 2 MiB, execve(2)
)

// Path is the file of an application.
func (r Registry) Path(name string) string { return filepath.Join(r.dir, name+suffix) }

// Environment is where the environment of an application is written to for others to
// read: systemd for one.
func (r Registry) Environment(name string) string { return filepath.Join(r.dir, name+".env") }

// fits: the name becomes that of a file, and no other path.
func fits(name string) bool {
	return name != "" && name[0] != '.' && !strings.ContainsAny(name, "/\x00")
}

// Names are those of all applications, in order, also of those that cannot be read.
func (r Registry) Names() ([]string, error) {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), suffix); ok && fits(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, err
}

// List is every application, in the order of the names. With an error it is those that
// could be read.
func (r Registry) List() ([]App, error) {
	names, err := r.Names()
	errs := []error{err}
	var all []App
	for _, name := range names {
		switch a, err := r.Get(name); {
		case err == nil:
			all = append(all, a)
		case !errors.Is(err, fs.ErrNotExist): // removed meanwhile
			errs = append(errs, err)
		}
	}
	return all, errors.Join(errs...)
}

// Get is one application. The error is fs.ErrNotExist when it is not known.
func (r Registry) Get(name string) (App, error) {
	if !fits(name) {
		return App{}, fmt.Errorf("%q is no name of an application", name)
	}
	path := r.Path(name)
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe in its place holds nobody up
	if err != nil {
		return App{}, err
	}
	defer f.Close() // read only
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return App{}, errors.Join(err, fmt.Errorf("%s: not a file", path))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return App{}, err
	}
	a, err := parse(text, name)
	if err != nil {
		return App{}, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

// parse reads a file and holds it to what everybody relies on.
func parse(text []byte, name string) (App, error) {
	if len(text) > maxSize {
		return App{}, fmt.Errorf("larger than %d bytes", maxSize)
	}
	var a App
	if err := json.Unmarshal(text, &a); err != nil {
		return App{}, err
	}
	if a.Name != name {
		return App{}, fmt.Errorf("it is of %q", a.Name)
	}
	return a, a.wrong()
}

func (a App) wrong() error {
	switch {
	case !fits(a.Name):
		return fmt.Errorf("%q is no name of an application", a.Name)
	case !filepath.IsAbs(a.Directory):
		return fmt.Errorf("directory %q is not absolute", a.Directory)
	case a.Unit != "" && !filepath.IsAbs(a.Unit):
		return fmt.Errorf("unit %q is not absolute", a.Unit)
	}
	for _, word := range slices.Concat(a.Args, []string{a.Directory, a.Unit}) {
		if strings.ContainsRune(word, 0) || !utf8.ValidString(word) { // JSON would change it
			return fmt.Errorf("%q: a NUL byte in it, or what is no UTF-8", word)
		}
	}
	for _, kv := range a.Env {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" || strings.ContainsRune(kv, 0) || !utf8.ValidString(kv) {
			return errors.New("env holds what is not KEY=VALUE, in UTF-8")
		}
	}
	return nil
}

// Put writes an application, in the place of what was known of it.
func (r Registry) Put(a App) error {
	return r.alone(func() error { return r.put(a) })
}

func (r Registry) put(a App) error {
	if err := a.wrong(); err != nil {
		return fmt.Errorf("%s: %w", a.Name, err)
	}
	text, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	return r.write(r.Path(a.Name), append(text, '\n'))
}

// Change writes what change makes of an application, while nobody else writes it: two
// commands at once lose nothing of each other's. change gets a zero App for one that is
// not known, or cannot be read; one that it returns a zero App for is forgotten. It must not call
// the Registry.
func (r Registry) Change(name string, change func(App) App) error {
	return r.alone(func() error {
		a, err := r.Get(name)
		if err != nil {
			a = App{}
		}
		switch now := change(a); {
		case reflect.DeepEqual(now, a):
			return nil
		case now.Name == "":
			return r.remove(name)
		default:
			return r.put(now)
		}
	})
}

// alone runs do while it has the directory to itself, among those who do so: for as long
// as it takes to write a file.
func (r Registry) alone(do func() error) error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	d, err := os.Open(r.dir)
	if err != nil {
		return err
	}
	defer d.Close() // and with it goes the lock
	for {
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil && !errors.Is(err, syscall.ENOTSUP) && !errors.Is(err, syscall.ENOLCK) { // a file system without locks
		return fmt.Errorf("lock %s: %w", r.dir, err)
	}
	return do()
}

func (r Registry) write(path string, text []byte) error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	if err := renameio.WriteFile(path, text, 0o600, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// WriteEnvironment writes an application's environment to the file Environment, as
// systemd reads it (systemd.exec(5), EnvironmentFile=). Variables that the format has
// no way to write, or no service may be given, are left out and named.
func (r Registry) WriteEnvironment(a App) (left []string, err error) {
	var b strings.Builder
	for _, kv := range a.Env {
		k, v, _ := strings.Cut(kv, "=")
		if !plainName(k) || !plainValue(v) {
			left = append(left, k)
			continue
		}
		b.WriteString(k + "=\"" + escaper.Replace(v) + "\"\n")
	}
	return left, r.write(r.Environment(a.Name), []byte(b.String()))
}

// In double quotes these have a meaning of their own there.
var escaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", `$`, `\$`)

func plainName(k string) bool {
	return k != "" && (k[0] < '0' || k[0] > '9') && !strings.ContainsFunc(k, func(c rune) bool {
		return c != '_' && (c >= utf8.RuneSelf || !unicode.IsLetter(c) && !unicode.IsDigit(c))
	})
}

// plainValue: systemd leaves out what is not UTF-8 or has a control character other
// than a tab or a line's end.
func plainValue(v string) bool {
	return utf8.ValidString(v) && !strings.ContainsFunc(v, func(c rune) bool {
		return c != '\t' && c != '\n' && (c < ' ' || c == 0x7f)
	})
}

// Remove forgets an application. One that is not known is no error.
func (r Registry) Remove(name string) error {
	if !fits(name) {
		return fmt.Errorf("%q is no name of an application", name)
	}
	if _, err := os.Stat(r.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return r.alone(func() error { return r.remove(name) })
}

func (r Registry) remove(name string) error {
	var errs []error
	for _, path := range []string{r.Path(name), r.Environment(name)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

package protocol

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// publicTemp is a directory for temporary files that every user can pass, unlike the
// ones of package testing; $TMPDIR until the test ends.
func publicTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	return dir
}

// privateTemp makes $TMPDIR one of mode 0700, as libpam-tmpdir does, with a short path.
func privateTemp(t *testing.T) {
	t.Helper()
	if err := os.Chmod(publicTemp(t), 0o700); err != nil {
		t.Fatal(err)
	}
}

// nobody starts a command as another user than root.
func nobody(t *testing.T) []string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: to become another user")
	}
	return []string{needs(t, "setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups"}
}

func TestAWorkerOfAnotherUserReadsThePreloadWhateverTMPDIRIs(t *testing.T) {
	node, other := needsNode(t), nobody(t)
	privateTemp(t)
	s := newStand(t, HubOptions{}, listening(t, "tcp", "127.0.0.1:0"))
	s.dir = "/"
	p := s.start(nil, append(other, node, "-e", `console.log("loaded", Object.hasOwn(require("http").Server.prototype, "listen")); process.send("ready")`)...).ready()
	p.says("loaded true")
	if s.log.count("WARN") != 0 {
		t.Errorf("log: %s", s.log)
	}
}

func TestAWorkerOfAnotherUserReachesEinhornsSocketWhateverTMPDIRIs(t *testing.T) {
	other, perl := nobody(t), needs(t, "perl")
	privateTemp(t)
	w := crewed(t, einhornOnly, two(t), nil, append(other, perl, "-MIO::Socket::UNIX", "-e", `
		my $s = IO::Socket::UNIX->new($ENV{EINHORN_SOCK_PATH}) or die "connect: $!";
		print $s "{\"command\":\"worker:ack\",\"pid\":$$}\n"; $s->flush;
		sleep 60;`)...)
	w.ready(einhornAck)
}

// publics are the two who put files where workers can reach them: each call is one
// more worker's, and returns the file's path.
func publics(t *testing.T) map[string]func(*Hub) string {
	return map[string]func(*Hub) string{
		"preload": func(h *Hub) string {
			env := h.node.nodeOptions(nil, slog.New(slog.DiscardHandler))
			if len(env) != 1 {
				t.Fatal("no preload")
			}
			return strings.TrimPrefix(env[0], "NODE_OPTIONS=--require=")
		},
		"einhorn": func(h *Hub) string {
			l, err := h.Open(choose(t, einhornOnly, executable("/srv/app", "")), &Worker{Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			})
			return (&crew{link: l}).socket()
		},
	}
}

func TestADirectoryThatIsNotOursAnyMoreIsNotUsed(t *testing.T) {
	again := func(dir string, owner int) error {
		return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700), os.Chmod(dir, 0o755),
			os.WriteFile(filepath.Join(dir, "drain.cjs"), []byte("theirs"), 0o444), os.Chown(dir, owner, -1))
	}
	for name, change := range map[string]func(dir string) error{
		"made again":            func(dir string) error { return again(dir, -1) },
		"made again by another": func(dir string) error { return again(dir, 65534) },
		"behind a symlink": func(dir string) error {
			return errors.Join(os.Rename(dir, dir+"-moved"), os.Symlink(dir+"-moved", dir))
		},
		"given to another": func(dir string) error { return os.Chown(dir, 65534, -1) },
		"open to others":   func(dir string) error { return os.Chmod(dir, 0o777) },
	} {
		for what, next := range publics(t) {
			t.Run(what+" "+name, func(t *testing.T) {
				if strings.HasSuffix(name, "another") && os.Getuid() != 0 {
					t.Skip("needs root: to give a directory away")
				}
				publicTemp(t)
				hub := NewHub(HubOptions{})
				dir := filepath.Dir(next(hub))
				if err := change(dir); err != nil {
					t.Fatal(err)
				}
				before := look(t, dir)
				path := next(hub)
				if filepath.Dir(path) == dir {
					t.Errorf("still %s", path)
				}
				if after := look(t, dir); !slices.Equal(after, before) {
					t.Errorf("%q was touched: %q", before, after)
				}
				if again := next(hub); filepath.Dir(again) != filepath.Dir(path) {
					t.Errorf("%s after %s", again, path)
				}
				if err := hub.Close(); err != nil {
					t.Error(err)
				}
				if _, err := os.Stat(filepath.Dir(path)); !os.IsNotExist(err) {
					t.Errorf("left behind: %s, %v", path, err)
				}
				if strings.HasPrefix(name, "made again") {
					if after := look(t, dir); !slices.Equal(after, before) {
						t.Errorf("%q was touched at the end: %q", before, after)
					}
				}
			})
		}
	}
}

// look is what a directory is and has.
func look(t *testing.T, dir string) (seen []string) {
	t.Helper()
	info, err := os.Lstat(dir)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		seen = append(seen, e.Name())
	}
	return append(seen, info.Mode().String())
}

func TestAnotherDirectoryInThePlaceOfOursStaysAtTheEnd(t *testing.T) {
	publicTemp(t)
	for what, next := range publics(t) {
		hub := NewHub(HubOptions{})
		dir := filepath.Dir(next(hub))
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
		if err := hub.Close(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := os.Remove(dir); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestWhoCleansUpByAgeLeavesPublicDirectoriesAlone(t *testing.T) {
	publicTemp(t)
	for what, next := range publics(t) {
		hub := NewHub(HubOptions{})
		dir, err := os.Open(filepath.Dir(next(hub)))
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			t.Errorf("%s: not locked: %v", what, err)
		}
		if err := errors.Join(dir.Close(), hub.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestPublicFilesLieWhereAllCanPassAndNobodyCanReplaceThem(t *testing.T) {
	top := publicTemp(t)
	base := func(name string, mode os.FileMode) string {
		t.Helper()
		dir := filepath.Join(top, name)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, mode)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	good := base("good", 0o711)
	sticky := base("sticky", 0o777|os.ModeSticky)
	link := filepath.Join(top, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	closed := base("closed", 0o710)
	below := base("shut/below", 0o755)
	base("shut", 0o700)
	for dir, want := range map[string]string{
		good: good, sticky: sticky, link: good, filepath.Join(top, "missing"): "", "relative": "",
		closed: "", below: "", base("all", 0o777): "", base("all/below", 0o755): "",
	} {
		dirs := publicDirs{prefix: "x-", mode: 0o711, bases: []string{dir, sticky}}
		if want == "" {
			want = sticky
			alone := publicDirs{prefix: "x-", mode: 0o711, bases: []string{dir}}
			if d, err := alone.get(); err == nil || !strings.Contains(err.Error(), filepath.Base(dir)) && !strings.Contains(err.Error(), filepath.Dir(dir)) {
				t.Errorf("%s: %v, error %v", dir, d, err)
			}
		}
		d, err := dirs.get()
		if err != nil || filepath.Dir(d.path) != want {
			t.Errorf("%s: %v, %v; want one in %s", dir, d, err, want)
		}
		if err := dirs.close(); err != nil {
			t.Error(err)
		}
	}
}

func TestADirectoryThatIsGoneHoldsNoDescriptor(t *testing.T) {
	top := publicTemp(t)
	held := func() (dirs []string) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			// What is no link any more was the directory that is being read.
			if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, top) {
				dirs = append(dirs, to)
			}
		}
		return dirs
	}
	for what, next := range publics(t) {
		hub := NewHub(HubOptions{})
		dir := filepath.Dir(next(hub))
		for range 2 {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			dir = filepath.Dir(next(hub))
		}
		if dirs := held(); !slices.Equal(dirs, []string{dir}) {
			t.Errorf("%s: holds %q", what, dirs)
		}
		if err := hub.Close(); err != nil {
			t.Error(err)
		}
		if dirs := held(); len(dirs) > 0 {
			t.Errorf("%s: still holds %q", what, dirs)
		}
	}
}

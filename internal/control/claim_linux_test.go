package control

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"baton/internal/testkit"
)

// holding is another process that has a name, and serves it.
type holding struct {
	*exec.Cmd
	t     *testing.T
	stdin io.Closer
	lines *bufio.Scanner
}

func other(t *testing.T, dir, name string) *holding {
	t.Helper()
	h := &holding{Cmd: exec.Command(os.Args[0], "hold", dir, name), t: t}
	h.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=10")
	stdin, err := h.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := h.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.stdin, h.lines = stdin, bufio.NewScanner(stdout)
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.kill)
	return h
}

func (h *holding) says(want string) {
	h.t.Helper()
	if !h.lines.Scan() || h.lines.Text() != want {
		h.t.Fatalf("the other process says %q, want %q", h.lines.Text(), want)
	}
}

func (h *holding) kill() {
	_ = h.Process.Kill() // it may have ended
	_ = h.Wait()         // it was killed
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestHomeIsWhereTheUserIs(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		env  map[string]string
		uid  int
		want string
	}{
		{map[string]string{"BATON_HOME": "/b", "XDG_RUNTIME_DIR": "/run/user/7"}, 0, "/b/run"},
		{map[string]string{"BATON_HOME": "/b", "XDG_RUNTIME_DIR": "/run/user/7"}, 7, "/b/run"},
		{map[string]string{"BATON_HOME": "b"}, 7, wd + "/b/run"},
		{map[string]string{"XDG_RUNTIME_DIR": "/run/user/0", "HOME": "/root"}, 0, "/run/baton"},
		{map[string]string{"XDG_RUNTIME_DIR": "/run/user/7", "XDG_STATE_HOME": "/s", "HOME": "/h"}, 7, "/run/user/7/baton"},
		{map[string]string{"XDG_RUNTIME_DIR": "relative", "XDG_STATE_HOME": "/s", "HOME": "/h"}, 7, "/s/baton/run"},
		{map[string]string{"XDG_STATE_HOME": "s", "HOME": "/h"}, 7, "/h/.local/state/baton/run"},
		{map[string]string{"HOME": ""}, 7, ""},
	} {
		got, err := home(func(name string) string { return c.env[name] }, c.uid)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%v, uid %d: %q, %v, want %q", c.env, c.uid, got, err, c.want)
		}
	}
}

func TestStateAndLogsAreWhereTheUserIs(t *testing.T) {
	for _, c := range []struct {
		env         map[string]string
		uid         int
		state, logs string
	}{
		{map[string]string{"BATON_HOME": "/b", "XDG_STATE_HOME": "/s"}, 0, "/b/lib", "/b/log"},
		{map[string]string{"XDG_STATE_HOME": "/s", "HOME": "/root"}, 0, "/var/lib/baton", "/var/log/baton"},
		{map[string]string{"XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/h"}, 7, "/s/baton", "/s/baton/log"},
		{map[string]string{"XDG_STATE_HOME": "s", "HOME": "/h"}, 7, "/h/.local/state/baton", "/h/.local/state/baton/log"},
		{map[string]string{"XDG_RUNTIME_DIR": "/run/user/7"}, 7, "", ""},
	} {
		env := func(name string) string { return c.env[name] }
		state, err1 := kept(env, c.uid, "lib", "/var/lib/baton", "")
		logs, err2 := kept(env, c.uid, "log", "/var/log/baton", "log")
		if state != c.state || logs != c.logs || (err1 == nil) != (c.state != "") || (err2 == nil) != (c.logs != "") {
			t.Errorf("%v, uid %d: %q, %q, %v, %v", c.env, c.uid, state, logs, err1, err2)
		}
	}
}

// Who was killed leaves his lock; who ends does not.
func TestLookTellsTheKilledFromTheEnded(t *testing.T) {
	testkit.Leaks(t)
	dir := filepath.Join(short(t), "run")
	if all, err := Look(dir); err != nil || len(all) != 0 {
		t.Fatalf("of nothing: %v, %v", all, err)
	}
	c, err := Take(dir, "web")
	if err != nil {
		t.Fatal(err)
	}
	look := func() Found {
		all, err := Look(dir)
		if err != nil || len(all) != 1 || all[0].Name != "web" {
			t.Fatalf("%+v, %v", all, err)
		}
		return all[0]
	}
	if f := look(); f.Answers || f.PID != os.Getpid() || time.Since(f.Since) > time.Minute {
		t.Errorf("before it listens: %+v", f)
	}
	l, err := c.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if f := look(); !f.Answers || f.PID != os.Getpid() {
		t.Errorf("while it listens: %+v", f)
	}
	_ = l.Close() // as the kernel does for one that was killed: the files stay
	if f := look(); f.Answers || f.PID != os.Getpid() {
		t.Errorf("killed: %+v", f)
	}
	if err := os.WriteFile(c.lock.Name(), []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f := look(); f.PID != 0 {
		t.Errorf("a lock that cannot be read: %+v", f)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if all, err := Look(dir); err != nil || len(all) != 0 {
		t.Errorf("ended: %+v, %v", all, err)
	}
}

// Root's launcher is looked for by one of a group that it lets in, when he has none of
// that name himself.
func TestAnApplicationOfRootsIsFoundByName(t *testing.T) {
	mine, roots := short(t), short(t)
	for _, path := range []string{mine + "/web.sock", roots + "/web.sock", roots + "/api.sock"} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	elsewhere := func(string) string { return "/elsewhere" }
	none := func(string) string { return "" }
	for _, c := range []struct {
		name string
		env  func(string) string
		want string
	}{
		{"web", none, mine}, {"api", none, roots}, {"other", none, mine}, {"../web", none, mine}, {"api", elsewhere, mine},
	} {
		if got := where(mine, c.name, roots, c.env); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestANameIsTakenOnce(t *testing.T) {
	testkit.Leaks(t)
	dir := filepath.Join(short(t), "a", "run")
	h := other(t, dir, "web")
	h.says("holds")
	_, err := Take(dir, "web")
	var taken *TakenError
	if !errors.As(err, &taken) || taken.PID != h.Process.Pid || taken.Name != "web" {
		t.Fatalf("taken: %v, by %d", err, h.Process.Pid)
	}
	if c, err := Take(dir, "api"); err != nil {
		t.Errorf("another name: %v", err)
	} else if err := c.Close(); err != nil {
		t.Error(err)
	}
	// What belongs to the one that runs is as it was.
	if got := files(t, dir); !slices.Equal(got, []string{"web.lock", "web.sock"}) {
		t.Errorf("the directory holds %v", got)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, dir + "/web.lock": 0o600, dir + "/web.sock": 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	client := In(dir, "web")
	if r, err := client.Status(t.Context()); err != nil || r.PID != h.Process.Pid {
		t.Errorf("status: %+v, %v", r, err)
	}
	// It ends: nothing is left, and the name is free before the process is gone, which
	// Stop waits for.
	stopped := make(chan error, 1)
	go func() { stopped <- client.Stop(t.Context(), true) }() // ends with the process
	h.says("ends")
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	select {
	case err := <-stopped:
		t.Errorf("stop returned with %v, and the process lives", err)
	default:
	}
	if err := h.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestOfManyAtOnceOneHasTheName(t *testing.T) {
	testkit.Leaks(t)
	dir := short(t)
	var having, had atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { // ends with its rounds
			for range 500 {
				c, err := Take(dir, "web")
				var taken *TakenError
				if errors.As(err, &taken) && (taken.PID == os.Getpid() || taken.PID == 0) {
					continue // 0: it had just been taken, or had just been given up
				}
				if err != nil {
					t.Errorf("%v", err)
					return
				}
				if n := having.Add(1); n != 1 {
					t.Errorf("%d have it at once", n)
				}
				had.Add(1)
				runtime.Gosched()
				having.Add(-1)
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if had.Load() < 8 {
		t.Errorf("taken %d times", had.Load())
	}
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

func TestWhatAKilledLauncherLeftIsTakenOver(t *testing.T) {
	testkit.Leaks(t)
	dir := short(t)
	h := other(t, dir, "web")
	h.says("holds")
	h.kill()
	if got := files(t, dir); !slices.Equal(got, []string{"web.lock", "web.sock"}) {
		t.Fatalf("the killed one left %v", got)
	}
	if names, err := List(dir); err != nil || len(names) != 0 {
		t.Errorf("still listed: %v, %v", names, err)
	}
	if _, err := In(dir, "web").Status(t.Context()); !errors.Is(err, ErrNotRunning) || err.Error() != "web is not running" {
		t.Errorf("the client has %v", err)
	}
	next := other(t, dir, "web")
	next.says("holds")
	if r, err := In(dir, "web").Status(t.Context()); err != nil || r.PID != next.Process.Pid {
		t.Errorf("status: %+v, %v", r, err)
	}
	next.kill()
}

// A request that waits when the launcher is killed does not wait for ever.
func TestAKilledLauncherIsNotRunning(t *testing.T) {
	testkit.Leaks(t)
	dir := short(t)
	h := other(t, dir, "web")
	h.says("holds")
	failed := make(chan error, 1)
	go func() { // ends with the process
		_, err := In(dir, "web").Reload(t.Context(), 0)
		failed <- err
	}()
	stopped := make(chan error, 1)
	go func() { stopped <- In(dir, "web").Stop(t.Context(), false) }() // likewise
	var paths []string
	testkit.Wait(t, func() bool {
		text, err := os.ReadFile("/proc/net/unix")
		if err != nil {
			t.Fatal(err)
		}
		paths = paths[:0]
		for line := range strings.Lines(string(text)) {
			if strings.HasSuffix(strings.TrimSpace(line), dir+"/web.sock") {
				paths = append(paths, line)
			}
		}
		return len(paths) == 3 // the listening one and the two connections' ends
	}, "both to be connected")
	h.kill()
	if err := <-failed; !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "ended before it had answered") {
		t.Errorf("the reload has %v", err)
	}
	if err := <-stopped; err != nil && !errors.Is(err, ErrNotRunning) {
		t.Errorf("the stop has %v", err)
	}
}

func TestRunningNamesAreListed(t *testing.T) {
	testkit.Leaks(t)
	dir := short(t)
	if names, err := List(filepath.Join(dir, "none")); err != nil || names != nil {
		t.Errorf("no directory: %v, %v", names, err)
	}
	for _, name := range []string{"web", "api"} {
		c, err := Take(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		l, err := c.Listen()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = errors.Join(l.Close(), c.Close()) }() // with the directory
	}
	for _, name := range []string{"file.sock", "web.lock.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := List(dir); err != nil || !slices.Equal(names, []string{"api", "web"}) {
		t.Errorf("listed: %v, %v", names, err)
	}
}

func TestAPathMayBeLong(t *testing.T) {
	testkit.Leaks(t)
	dir := filepath.Join(short(t), strings.Repeat("d", 90), strings.Repeat("e", 90))
	name := strings.Repeat("n", 64)
	c, err := Take(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if names, err := List(dir); err != nil || !slices.Equal(names, []string{name}) {
		t.Errorf("listed: %v, %v", names, err)
	}
	conn, err := dial(filepath.Join(dir, name+socketSuffix))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(conn.Close(), l.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

func TestADirectoryIsMadePrivate(t *testing.T) {
	dir := short(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := Take(dir, "web")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() // with the directory
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestADirectoryOfSomebodyElseIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give a directory away")
	}
	dir := short(t)
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := Take(dir, "web"); err == nil || !strings.Contains(err.Error(), "belongs to uid 65534, not to uid 0") {
		t.Errorf("taken: %v", err)
	}
}

func TestWhatIsInTheWayStays(t *testing.T) {
	testkit.Leaks(t)
	dir := short(t)
	path := filepath.Join(dir, "web.sock")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Take(dir, "web")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Listen(); err == nil || !strings.Contains(err.Error(), "something that is no socket is in the way") {
		t.Errorf("listens: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if got := files(t, dir); !slices.Equal(got, []string{"web.sock"}) {
		t.Errorf("the directory holds %v", got)
	}
	// A lock that is a link would be written through.
	if err := os.Symlink(path, filepath.Join(dir, "api.lock")); err != nil {
		t.Fatal(err)
	}
	if _, err := Take(dir, "api"); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a link is locked: %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "mine" {
		t.Errorf("the file holds %q, %v", text, err)
	}
}

// One whose socket was replaced, or whose lock was removed, takes away what is its
// own alone.
func TestCloseTakesAwayItsOwnAlone(t *testing.T) {
	testkit.Leaks(t)
	dir := short(t)
	c, err := Take(dir, "web")
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.Listen()
	if err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{socketSuffix, lockSuffix} {
		if err := os.Remove(filepath.Join(dir, "web"+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	second, err := Take(dir, "web")
	if err != nil {
		t.Fatal(err)
	}
	l2, err := second.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	if got := files(t, dir); !slices.Equal(got, []string{"web.lock", "web.sock"}) {
		t.Errorf("the directory holds %v", got)
	}
	if err := errors.Join(l2.(*net.UnixListener).Close(), second.Close()); err != nil {
		t.Error(err)
	}
}

func TestNamesThatAreNone(t *testing.T) {
	for _, name := range []string{"", ".", "..", ".web", "a/b", "/web", "a\x00b"} {
		if c, err := Take(short(t), name); err == nil {
			t.Errorf("%q is taken", name)
			_ = c.Close() // it should not be there
		}
		if _, err := In(short(t), name).Status(t.Context()); err == nil || errors.Is(err, ErrNotRunning) {
			t.Errorf("%q is asked: %v", name, err)
		}
	}
}

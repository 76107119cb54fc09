package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
)

// served asks once and returns the generation that answered.
func served(t *testing.T, to load.Target) string {
	t.Helper()
	return keep(t, to).get("/pid")
}

// refused waits until nobody listens any more.
func refused(t *testing.T, to load.Target) {
	t.Helper()
	testkit.Wait(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		c, err := (&net.Dialer{}).DialContext(ctx, to.Network, to.Address)
		if err == nil {
			_ = c.Close() // it was only to see whether it opens
		}
		return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
	}, to.Address+" to be closed")
}

func TestListenersComeAndGoWithAReload(t *testing.T) {
	testkit.Leaks(t)
	web := listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t)))
	admin := listen("admin", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t)))
	file := listen("file", "unix://"+shortDir(t)+"/s")
	path := config(t, testkit.Target(), quick, web)
	a := run(t, path)
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 8})

	rewrite(t, path, testkit.Target(), quick, web, admin, file)
	a.swap()
	for _, name := range []string{"admin", "file"} {
		if g := served(t, a.address(name)); g != "2" {
			t.Errorf("%s is served by generation %s, want 2", name, g)
		}
	}
	// Requests in flight on a listener that goes are served to their end; then it
	// is closed, and the path of the unix socket is removed.
	var slow []*load.Runner
	for _, name := range []string{"admin", "file"} {
		r := begun(t, load.Options{Targets: []load.Target{a.address(name)}, Clients: 4, Kind: load.Slow})
		testkit.Wait(t, func() bool { return r.Result().Requests > 0 }, "a request on "+name)
		slow = append(slow, r)
	}
	rewrite(t, path, testkit.Target(), quick, web)
	a.HUP()
	a.serving(3)
	a.gone(2)
	for i, name := range []string{"admin", "file"} {
		refused(t, a.address(name))
		r := slow[i].Stop()
		for reason, n := range r.Reasons {
			if reason != load.Refused {
				t.Errorf("%s: %d requests lost: %s %v", name, n, reason, r.Examples)
			}
		}
	}
	none(t, "web", fresh.Stop(), 100)
	a.Stop()
}

// A listener that was taken away and is wanted again while the generation that
// had it drains is taken over, not bound twice.
func TestAListenerComesBackWhileItsOldGenerationDrains(t *testing.T) {
	testkit.Leaks(t)
	web := listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t)))
	admin := listen("admin", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t)))
	file := listen("file", "unix://"+shortDir(t)+"/s")
	long := "[handoff]\ndrain_delay = \"1h\""
	path := config(t, testkit.Target(), long, web, admin, file)
	a := run(t, path)
	rewrite(t, path, testkit.Target(), long, web)
	a.HUP()
	a.serving(2)
	rewrite(t, path, testkit.Target(), long, web, admin, file)
	a.HUP()
	a.serving(3)
	for _, name := range []string{"web", "admin", "file"} {
		if g := served(t, a.address(name)); g != "3" {
			t.Errorf("%s is served by generation %s, want 3", name, g)
		}
	}
	a.Stop()
}

// During the bake the standby generation goes on serving a listener that the
// newcomer does not have, so that a rollback finds all as it was.
func TestAListenerThatGoesStaysUntilTheBakeIsOver(t *testing.T) {
	testkit.Leaks(t)
	web := listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t)))
	admin := listen("admin", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t)))
	bake := "[handoff]\nbake = \"1h\""
	path := config(t, testkit.Target(), bake, web, admin)
	a := run(t, path)
	rewrite(t, path, testkit.Target(), bake, web)
	a.HUP()
	a.serving(2)
	if w, d := served(t, a.address("web")), served(t, a.address("admin")); w != "2" || d != "1" {
		t.Errorf("web by generation %s, admin by %s; want 2 and 1", w, d)
	}
	kill(t, a.pid(2))
	a.WaitEvent(0, "rolledback", "generation", 2)
	a.answers(a.address("web"), 1)
	if d := served(t, a.address("admin")); d != "1" {
		t.Errorf("after the rollback admin is served by %s", d)
	}
	a.Stop()
}

// pid of the worker that a generation started last.
func (a *app) pid(generation int) int {
	a.t.Helper()
	n, err := a.WaitEvent(0, "started", "generation", generation).Event()["pid"].(interface{ Int64() (int64, error) }).Int64()
	if err != nil {
		a.t.Fatal(err)
	}
	return int(n)
}

func TestAReloadReadsCommandEnvironmentAndModeAgain(t *testing.T) {
	testkit.Leaks(t)
	dir := shortDir(t)
	sock := filepath.Join(dir, "s")
	text := func(mode, word string) string {
		return fmt.Sprintf("name = \"test\"\n[command]\nexec = %s\nenv_file = %q\n%s\n%s",
			quoted(testkit.Target("lines=1", "words="+word)), filepath.Join(dir, "env"), quick,
			listen("file", "unix://"+sock, fmt.Sprintf("mode = %q", mode)))
	}
	path := filepath.Join(dir, "baton.toml")
	write(t, filepath.Join(dir, "env"), "COLOUR=green\n")
	write(t, path, text("0600", "one"))
	a := run(t, path)
	check := func(mode os.FileMode, word, colour string) {
		t.Helper()
		st, err := os.Stat(sock)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != mode {
			t.Errorf("mode %o, want %o", st.Mode().Perm(), mode)
		}
		pid := a.pid(a.last)
		for file, want := range map[string]string{"cmdline": "words=" + word, "environ": "COLOUR=" + colour} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(b), want+"\x00") {
				t.Errorf("%s of generation %d is without %s", file, a.last, want)
			}
		}
	}
	check(0o600, "one", "green")
	write(t, filepath.Join(dir, "env"), "COLOUR=blue\n")
	write(t, path, text("0660", "two"))
	a.swap()
	check(0o660, "two", "blue")
	a.Stop()
}

// The directory is resolved afresh at each swap: a `current` link that moved is
// followed, and only then.
func TestASwapFollowsALinkThatMoved(t *testing.T) {
	testkit.Leaks(t)
	dir := shortDir(t)
	for _, release := range []string{"one", "two"} {
		mkdir(t, filepath.Join(dir, release))
		install(t, testkit.Target()[0], filepath.Join(dir, release, "server"))
	}
	current := filepath.Join(dir, "current")
	point := func(to string) {
		t.Helper()
		if err := os.Symlink(to, current+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(current+".new", current); err != nil {
			t.Fatal(err)
		}
	}
	point("one")
	command := append([]string{filepath.Join(current, "server")}, testkit.Target()[1:]...)
	a := run(t, config(t, command, "[restart]\nbackoff_min = \"10ms\"", quick, listen("web", "127.0.0.1:0")))
	runs := func(want string) {
		t.Helper()
		children := a.Children()
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", children[len(children)-1]))
		if err != nil || exe != filepath.Join(dir, want, "server") {
			t.Errorf("runs %s, want release %s (%v)", exe, want, err)
		}
	}
	runs("one")
	point("two")
	from := a.Next()
	kill(t, a.Children()[0])
	a.WaitEvent(from, "ready")
	runs("one") // a crash is no deploy
	a.HUP()
	a.serving(2)
	a.gone(1)
	runs("two")
	a.Stop()
}

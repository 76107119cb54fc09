package e2e

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/testkit"
)

// Workers of every kind over an upgrade and a kill of the launcher.

// succeeded kills the launcher and starts another one, which takes its place.
func (a *app) succeeded(path string) *app {
	a.t.Helper()
	kill(a.t, a.PID())
	a.Wait()
	next := testkit.NewBaton(a.t, "run", "--config", path, "--log", "json")
	next.Cmd.Env = append(next.Cmd.Env, "BATON_HOME="+a.Home)
	next.Home = a.Home
	next.Start()
	b := &app{Launcher: next, t: a.t, last: a.last}
	b.WaitEvent(0, "resumed")
	return b
}

// heard waits until that many workers serve of which none was among these: those that a
// killed launcher has left are replaced.
func (a *app) heard(workers int, before []int) {
	a.t.Helper()
	testkit.Wait(a.t, func() bool {
		r := a.report()
		now := pids(r)
		return r.State == event.StateServing && len(now) == workers && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(before, pid) })
	}, "workers that are heard")
	a.from = a.Next()
}

// kinds of workers, and what their configurations need.
func keptKinds(t *testing.T) map[string]keptKind {
	python, py := program(t, "python3"), testdata(t, "server.py")
	return map[string]keptKind{
		"systemd":      {exec: []string{python, py, "systemd"}},
		"einhorn":      {exec: []string{python, py, "einhorn"}, more: `protocols = ["einhorn"]`},
		"socketmaster": {exec: []string{python, py, "socketmaster"}, more: `protocols = ["socketmaster"]`},
		"s6":           {exec: []string{python, py, "s6", `{{fd "web"}}`, `{{ready}}`}, more: "ready = \"newline\"\nready_fd = 7"},
		"template":     {exec: []string{python, py, "template", `{{ fd "web" }}`}},
		"notify":       {exec: testkit.Target("ready=notify"), more: "ready = \"notify\""},
		"shared":       {exec: testkit.Target(), listen: `steering = "off"`, shared: true},
		"unix":         {exec: testkit.Target(), unix: true, more: "workers = 3", workers: 3, shared: true},
		"together":     {exec: gunicorn(t), more: "workers = 4\nslots = \"generation\"", workers: 4, shared: true},
	}
}

type keptKind struct {
	exec    []string
	command string // keys of [command]
	more    string // keys of [handoff], and tables behind it
	listen  string // keys of [[listen]]
	port    int    // 0: any
	workers int    // 0: 1
	unix    bool
	shared  bool // the workers have one queue, also with those that take their places
	kept    bool // clients keep their connections
	tied    bool // they end when their channel to the launcher does
}

func (k keptKind) test(t *testing.T) {
	t.Helper()
	if k.port == 0 {
		k.port = testkit.FreePort(t)
	}
	address := fmt.Sprintf("127.0.0.1:%d", k.port)
	if k.unix {
		address = "unix://" + filepath.Join(shortDir(t), "s")
	}
	workers := max(1, k.workers)
	path := config(t, k.exec, k.command, quick, k.more, listen("web", address, k.listen))
	a, _ := upgradable(t, path)
	to := []load.Target{a.address("web")}
	fresh := begun(t, load.Options{Targets: to, Clients: 4})
	stays := fresh
	if k.kept {
		stays = begun(t, load.Options{Targets: to, Clients: 3, Kind: load.KeepAlive})
	}
	a.upgrade()
	more(t, fresh, 10)
	a.swap()
	a.upgrade()
	more(t, fresh, 10)
	if !k.tied {
		a.gone(a.last - 1) // tableflip's say something when it is, and nobody would read it
		before := pids(a.report())
		a = a.succeeded(path)
		more(t, fresh, 10)
		a.heard(workers, before)
	}
	a.swap()
	a.upgrade()
	more(t, fresh, 10)
	a.swap()
	a.gone(a.last - 1)
	r := fresh.Stop()
	// Who leaves while others go on with the queue accepts to the end, and may drop what it
	// has just accepted; in each swap where nothing is steered.
	if k.shared {
		r.Lost -= min(r.Reasons[load.Reset]+r.Reasons[load.EOF], r.Requests/50)
	}
	none(t, "fresh", r, 50)
	if k.kept {
		none(t, "keep-alive", stays.Stop(), 20)
	}
	a.noCrash()
	a.Stop()
}

func TestWorkersOfEachKindOverUpgradesAndAKill(t *testing.T) {
	testkit.Together(t)
	for name, k := range keptKinds(t) {
		t.Run(name, func(t *testing.T) { t.Parallel(); k.test(t) })
	}
	t.Run("server-starter", func(t *testing.T) {
		t.Parallel()
		perl := program(t, "perl")
		if exec.Command(perl, "-MServer::Starter", "-e1").Run() != nil {
			testkit.Lack(t, "needs Perl's Server::Starter")
		}
		keptKind{exec: []string{perl, testdata(t, "server.pl")}}.test(t)
	})
	t.Run("node", func(t *testing.T) {
		t.Parallel()
		node := program(t, "node")
		port := testkit.FreePort(t)
		keptKind{exec: []string{node, "server.cjs"}, kept: true, tied: true,
			command: fmt.Sprintf("directory = %q\nenv = { PORT = '{{port \"web\"}}', SAYS = \"ready\" }", nodeDir(t, `{}`)),
			more:    "\n" + listen("six", fmt.Sprintf("[::1]:%d", port))}.test(t)
	})
	t.Run("tableflip", func(t *testing.T) {
		t.Parallel()
		n := testkit.FreePort(t)
		keptKind{exec: []string{flip(t), "listen", "tcp", fmt.Sprintf("127.0.0.1:%d", n)}, port: n}.test(t)
	})
	t.Run("nginx", func(t *testing.T) {
		t.Parallel()
		n, dir := testkit.FreePort(t), t.TempDir()
		write(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf("pid %[1]s/pid;\nerror_log stderr;\nevents {}\nhttp { access_log off; server { listen 127.0.0.1:%[2]d; location / { return 200 ok; } } }\n", dir, n))
		keptKind{exec: []string{program(t, "nginx"), "-e", "stderr", "-c", filepath.Join(dir, "nginx.conf"), "-g", "daemon off;"}, port: n,
			command: `env = { NGINX = '{{fd "web"}};' }`, more: `drain_signals = ["QUIT"]`, listen: "nonblocking = true"}.test(t)
	})
	t.Run("gunicorn", func(t *testing.T) {
		t.Parallel()
		keptKind{exec: gunicorn(t)}.test(t)
	})
}

// Who follows events and lines goes on following the launcher that was upgraded: each is
// told once.
func TestWhoFollowsGoesOnOverUpgrades(t *testing.T) {
	testkit.Leaks(t)
	a, _ := upgradable(t, config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0")))
	events := exec.Command(testkit.Binary(t), "events", "test", "--follow", "--json")
	events.Env = append(events.Environ(), "BATON_HOME="+a.Home, "GORACE=atexit_sleep_ms=10")
	var out, errs bytes.Buffer
	events.Stdout, events.Stderr = &out, &errs
	if err := events.Start(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		a.upgrade()
		a.swap()
	}
	a.Stop()
	if err := events.Wait(); err != nil {
		t.Errorf("%v: %s", err, errs.String())
	}
	told := make(map[string]int)
	for line := range strings.Lines(out.String()) {
		told[line]++
		if told[line] > 1 {
			t.Errorf("twice: %s", line)
		}
	}
	for kind, want := range map[string]int{"resumed": 3, "serving": 4, "stopped": 1, "missed": 0} {
		if n := strings.Count(out.String(), `"event":"`+kind+`"`); n != want {
			t.Errorf("%q was told %d times, want %d:\n%s", kind, n, want, out.String())
		}
	}
}

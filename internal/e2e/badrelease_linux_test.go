package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/testkit"
)

// state is what "baton status --json" prints.
func (a *app) state() event.Report {
	a.t.Helper()
	code, out, errs := a.baton("status", "test", "--json")
	var r event.Report
	if err := json.Unmarshal([]byte(out), &r); code != 0 || err != nil {
		a.t.Fatalf("status: exit code %d, %v: %s%s", code, err, out, errs)
	}
	return r
}

// generation of a report; the test fails when there is none with this number.
func generation(t testing.TB, r event.Report, number int) event.Generation {
	t.Helper()
	for _, g := range r.Generations {
		if g.Number == number {
			return g
		}
	}
	t.Fatalf("no generation %d in %+v", number, r.Generations)
	return event.Generation{}
}

// at is the time that an event's line says: before the launcher printed it.
func at(t testing.TB, line testkit.Line) time.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339Nano, fmt.Sprint(line.Event()["time"]))
	if err != nil {
		t.Fatal(err)
	}
	return when
}

// crashers holds a load to what a server that died may cost: each client no more
// than the request that one of so many dead processes had accepted, and nothing of
// what was begun after safe.
func crashers(t testing.TB, r load.Result, clients, died int, safe time.Time) {
	t.Helper()
	t.Logf("%d requests by generation %v, %d lost by %d that died: %v", r.Requests, r.ByGeneration, r.Lost, died, r.Reasons)
	cut := r.Reasons[load.EOF] + r.Reasons[load.Reset] + r.Reasons[load.Truncated]
	if r.Lost > clients*died || r.Lost != cut {
		t.Errorf("lost more than the dead had accepted: %v", r)
	}
	for _, l := range r.Examples {
		if l.At.Add(-l.Took).After(safe) {
			t.Errorf("begun after %v, and lost: %v", safe.Format("15:04:05.000000"), l)
		}
	}
}

// rollsBack waits until generation 2 was given up and nothing of it is left, and
// returns when that began: its worker was dead by then, and could lose nothing more.
func (a *app) rollsBack(from int, reason string) time.Time {
	a.t.Helper()
	line := a.WaitEvent(from, "rolledback", "generation", 2)
	if said := fmt.Sprint(line.Event()["reason"]); !strings.Contains(said, reason) {
		a.t.Errorf("rolled back because of %q, want %q", said, reason)
	}
	a.WaitEvent(from, "gone", "generation", 2)
	a.last = 1
	return at(a.t, line)
}

func TestAReleaseThatCrashesInItsBakeGivesWayToTheStandby(t *testing.T) {
	testkit.Leaks(t)
	file := t.TempDir() + "/behaviours"
	testkit.Behave(t, file, "ready=none")
	a := run(t, config(t, testkit.Target("@"+file), quick, `bake = "5s"`, listen("web", "127.0.0.1:0")))
	web := a.address("web")
	fresh := begun(t, load.Options{Targets: []load.Target{web}, Clients: 8})
	testkit.Behave(t, file, "crash=1s", "words=out_of_licences")
	from := a.Next()
	if code, out, errs := a.baton("reload", "test"); code != 0 || out != "test: swapped, generation 2 serves\n" {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if r := a.state(); generation(t, r, 1).Phase != "standby" || generation(t, r, 2).Phase != "serving" {
		t.Errorf("in the bake: %+v", r.Generations)
	}
	safe := a.rollsBack(from, "exit status 2")
	if line := a.WaitEvent(from, "rolledback"); !strings.Contains(line.Text, "out_of_licences") {
		t.Errorf("without the last lines: %s", line.Text)
	}
	before := a.pid(1)
	r := a.state()
	if g := generation(t, r, 1); r.State != event.StateServing || g.Phase != "serving" || g.Workers[0].PID != before || r.Restarts != 0 || r.Verdict != "rolled back: exit status 2" {
		t.Errorf("afterwards: %+v", r)
	}
	calm := begun(t, load.Options{Targets: []load.Target{web}, Clients: 4})
	testkit.Wait(t, func() bool { return calm.Result().Requests > 300 }, "300 requests")
	none(t, "after the rollback", calm.Stop(), 300)
	got := fresh.Stop()
	crashers(t, got, 8, 1, safe)
	if got.ByGeneration["1"] == 0 || got.ByGeneration["2"] == 0 || len(got.ByGeneration) != 2 {
		t.Errorf("users met generations %v", got.ByGeneration)
	}
	a.Stop()
}

// What else ends a bake: a newcomer that is up and does not work.
func TestANewcomerThatStopsWorkingInItsBakeIsRolledBack(t *testing.T) {
	testkit.Together(t)
	live := "[health.live]\nprobe = \"http\"\npath = \"/healthz\"\ninterval = \"100ms\"\ntimeout = \"1s\"\nfailures = 2"
	t.Run("its live probe fails", func(t *testing.T) {
		testkit.Leaks(t)
		file := t.TempDir() + "/behaviours"
		testkit.Behave(t, file, "ready=none")
		a := run(t, config(t, testkit.Target("@"+file), quick, `bake = "1h"`, live, listen("web", "127.0.0.1:0")))
		fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 4})
		testkit.Behave(t, file, "health=never")
		from := a.Next()
		a.HUP()
		a.rollsBack(from, "503")
		a.WaitEvent(from, "unhealthy", "generation", 2)
		none(t, "fresh", fresh.Stop(), 100)
		a.Stop()
	})
	t.Run("it stops accepting", func(t *testing.T) {
		testkit.Leaks(t)
		a := run(t, config(t, testkit.Target(), quick, `bake = "5s"`, `drain_timeout = "500ms"`, listen("web", "127.0.0.1:0")))
		web := a.address("web")
		a.swap()
		from := a.Next()
		stop(t, a.pid(2))
		waiting := begun(t, load.Options{Targets: []load.Target{web}, Clients: 8})
		a.rollsBack(from, "accepted nothing")
		testkit.Wait(t, func() bool { return waiting.Result().Requests > 100 }, "a hundred answers")
		got := waiting.Stop()
		none(t, "what waited for the stopped one, and others", got, 100)
		if got.ByGeneration["2"] > 0 {
			t.Errorf("answered by %v", got.ByGeneration)
		}
		a.Stop()
	})
}

// stop stops a worker as a debugger does, and waits until each of its threads has: one
// that still runs may accept a connection, and then nobody waits in the queue.
func stop(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		return err == nil && len(threads) > 0 && !slices.ContainsFunc(threads, func(file string) bool {
			text, err := os.ReadFile(file)
			_, state, _ := strings.Cut(string(text), ") ")
			return err != nil || !strings.HasPrefix(state, "T")
		})
	}, fmt.Sprintf("pid %d to be stopped", pid))
}

// goOn undoes stop.
func goOn(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// tree is an application deployed as tools do it: a directory for each release, with
// all that it needs, and a link to the one that is current.
type tree struct {
	*app
	t    *testing.T
	root string
	path string // of the configuration
}

// release makes one, with the target's behaviours in it. Each has an executable of
// its own.
func (d *tree) release(name string, behaviours ...string) {
	d.t.Helper()
	dir := filepath.Join(d.root, name)
	mkdir(d.t, dir)
	install(d.t, testkit.Target()[0], filepath.Join(dir, "server"))
	testkit.Behave(d.t, filepath.Join(dir, "behaviour"), behaviours...)
}

// point moves the link.
func (d *tree) point(to string) {
	d.t.Helper()
	link := filepath.Join(d.root, "current")
	if err := os.Symlink(to, link+".new"); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		d.t.Fatal(err)
	}
}

// configure has the release that is current run, with COLOUR as its environment.
func (d *tree) configure(colour string, more ...string) {
	d.t.Helper()
	command := append([]string{filepath.Join(d.root, "current", "server")}, testkit.Target("@behaviour")[1:]...)
	rewrite(d.t, d.path, command, append([]string{
		fmt.Sprintf("directory = %q\nenv = { COLOUR = %q }", filepath.Join(d.root, "current"), colour),
		quick, "[restart]\nbackoff_min = \"20ms\"\nbackoff_max = \"50ms\"",
	}, append(more, listen("web", "127.0.0.1:0"))...)...)
}

func newTree(t *testing.T, more ...string) *tree {
	t.Helper()
	root := shortDir(t)
	d := &tree{t: t, root: root, path: filepath.Join(root, "baton.toml")}
	d.release("v1", "ready=none")
	d.point("v1")
	d.configure("green", more...)
	d.app = run(t, d.path)
	return d
}

// runs says what the newest worker of a generation runs, by the kernel's word.
func (a *app) runs(generation int) (exe, dir, environ string) {
	a.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", a.pid(generation))
	exe, err := os.Readlink(proc + "exe")
	if err != nil {
		a.t.Fatal(err)
	}
	if dir, err = os.Readlink(proc + "cwd"); err != nil {
		a.t.Fatal(err)
	}
	b, err := os.ReadFile(proc + "environ")
	if err != nil {
		a.t.Fatal(err)
	}
	return exe, dir, string(b)
}

// reverts waits until baton has gone back by itself from generation 2 to the release
// of generation 1, and returns when that was.
func (a *app) reverts(from int) time.Time {
	a.t.Helper()
	a.WaitEvent(from, "crash-loop", "generation", 2)
	a.WaitEvent(from, "reverting", "generation", 3)
	line := a.WaitEvent(from, "serving", "generation", 3)
	a.last = 3
	return at(a.t, line)
}

// died counts the workers of a generation that were lost.
func (a *app) died(generation int) (n int) {
	for _, l := range a.Lines() {
		if e := l.Event(); e != nil && e["event"] == "crashed" && fmt.Sprint(e["generation"]) == fmt.Sprint(generation) {
			n++
		}
	}
	return n
}

// With nothing standing by, a release that cannot stay up gives way to the last one
// that could, whose link has moved on and whose file is gone.
func TestAReleaseThatLoopsGivesWayToTheLastGoodOne(t *testing.T) {
	testkit.Leaks(t)
	d := newTree(t)
	web := d.address("web")
	fresh := begun(t, load.Options{Targets: []load.Target{web}, Clients: 3})
	d.release("v2", "crash=1s", "words=cannot_stay")
	d.point("v2")
	d.configure("red")
	if code, out, errs := d.baton("reload", "test"); code != 0 {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	d.gone(1)
	remove(t, filepath.Join(d.root, "v1", "server"))
	from := d.Next()
	safe := d.reverts(from)
	if exe, dir, environ := d.runs(3); exe != filepath.Join(d.root, "v1", "server")+" (deleted)" || dir != filepath.Join(d.root, "v1") ||
		!strings.Contains(environ, "COLOUR=green\x00") {
		t.Errorf("runs %s in %s with %q", exe, dir, environ)
	}
	d.gone(2)
	died := d.died(2)
	if died < 4 { // 3 restarts in a row, and the loss after them
		t.Errorf("it went back after %d losses", died)
	}
	calm := begun(t, load.Options{Targets: []load.Target{web}, Clients: 4})
	testkit.Wait(t, func() bool { return calm.Result().Requests > 300 }, "300 requests")
	none(t, "after the return", calm.Stop(), 300)
	crashers(t, fresh.Stop(), 3, died, safe)
	r := d.state()
	if g := generation(t, r, 3); r.State != event.StateServing || g.Release != 1 || g.Directory != filepath.Join(d.root, "v1") {
		t.Errorf("afterwards: %+v", r)
	}
	// The next deployment is one like any other.
	d.release("v3", "ready=none")
	d.point("v3")
	d.configure("blue")
	if code, out, errs := d.baton("reload", "test"); code != 0 || out != "test: swapped, generation 4 serves\n" {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if _, dir, environ := d.runs(4); dir != filepath.Join(d.root, "v3") || !strings.Contains(environ, "COLOUR=blue\x00") {
		t.Errorf("runs in %s with %q", dir, environ)
	}
	d.Stop()
}

// The same with one file, which the new release was renamed over.
func TestARenameOverTheExecutableDoesNotKeepBatonFromGoingBack(t *testing.T) {
	testkit.Leaks(t)
	d := newDeploy(t, "[restart]\nbackoff_min = \"20ms\"\nbackoff_max = \"50ms\"\nrevert_after = 2")
	var old syscall.Stat_t
	if err := syscall.Stat(d.exe, &old); err != nil {
		t.Fatal(err)
	}
	target := testkit.Target("crash=50ms")
	write(t, d.exe+".new", fmt.Sprintf("#!/bin/sh\nexec '%s' %s %s\n", target[0], target[1], target[2]))
	if err := os.Rename(d.exe+".new", d.exe); err != nil {
		t.Fatal(err)
	}
	from := d.Next()
	d.HUP()
	d.reverts(from)
	var now syscall.Stat_t
	if err := syscall.Stat(fmt.Sprintf("/proc/%d/exe", d.pid(3)), &now); err != nil || now.Ino != old.Ino {
		t.Errorf("runs inode %d, want the old executable's, %d (%v)", now.Ino, old.Ino, err)
	}
	if exe, _, _ := d.runs(3); exe != d.exe+" (deleted)" {
		t.Errorf("runs %s", exe)
	}
	if n := d.died(2); n < 3 {
		t.Errorf("it went back after %d losses, want 3: 2 restarts and the loss after them", n)
	}
	d.gone(2)
	d.good()
	if code, out, errs := d.baton("reload", "test"); code != 0 || out != "test: swapped, generation 4 serves\n" {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	d.Stop()
}

// With revert_after = 0 the release that crashes is tried on.
func TestWithoutRevertAfterTheReleaseIsTriedOn(t *testing.T) {
	testkit.Leaks(t)
	d := newDeploy(t, "[restart]\nbackoff_min = \"10ms\"\nbackoff_max = \"20ms\"\nrevert_after = 0")
	testkit.Behave(t, d.behaviour, "crash=20ms")
	from := d.Next()
	d.HUP()
	d.WaitEvent(from, "crash-loop", "generation", 2)
	testkit.Wait(t, func() bool { return d.died(2) >= 8 }, "eight losses")
	if r := d.state(); r.State != event.StateCrashLoop || !generation(t, r, 2).Looping {
		t.Errorf("status: %+v", r)
	}
	testkit.Behave(t, d.behaviour, "ready=none") // repaired in place
	d.WaitEvent(d.Next(), "ready", "generation", 2)
	for _, l := range d.Lines() {
		if e := l.Event(); e["event"] == "reverting" {
			t.Errorf("%s", l.Text)
		}
	}
	d.Stop()
}

func TestRollbackOnRequest(t *testing.T) {
	testkit.Together(t)
	wants := func(t *testing.T, a *app, code int, out, errs string) {
		t.Helper()
		if c, o, e := a.baton("rollback", "test"); c != code || !strings.Contains(o, out) || !strings.Contains(e, errs) {
			t.Errorf("rollback: exit code %d, %q, %q; want %d, %q, %q", c, o, e, code, out, errs)
		}
	}
	t.Run("to the standby", func(t *testing.T) {
		testkit.Leaks(t)
		a := run(t, config(t, testkit.Target(), quick, `bake = "1h"`, listen("web", "127.0.0.1:0")))
		fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 4})
		before := a.pid(1)
		a.swap()
		wants(t, a, 0, "generation 1 serves", "")
		if got := served(t, a.address("web")); got != "1" || a.pid(1) != before {
			t.Errorf("generation %s serves", got)
		}
		a.gone(2)
		wants(t, a, 1, "", "there is no release to go back to")
		none(t, "fresh", fresh.Stop(), 20)
		a.Stop()
	})
	t.Run("to a release that was kept", func(t *testing.T) {
		testkit.Leaks(t)
		d := newTree(t)
		wants(t, d.app, 1, "", "there is no release to go back to")
		fresh := begun(t, load.Options{Targets: []load.Target{d.address("web")}, Clients: 4})
		d.release("v2", "ready=none")
		d.point("v2")
		d.configure("red")
		d.swap()
		d.gone(1)
		if r := d.state().Releases; len(r) != 1 || r[0].Directory != filepath.Join(d.root, "v1") {
			t.Errorf("kept: %+v", r)
		}
		wants(t, d.app, 0, "generation 3 serves", "")
		if _, dir, environ := d.runs(3); dir != filepath.Join(d.root, "v1") || !strings.Contains(environ, "COLOUR=green\x00") {
			t.Errorf("runs in %s with %q", dir, environ)
		}
		d.gone(2)
		wants(t, d.app, 1, "", "there is no release to go back to") // who was sent away is not good
		if r := d.state(); len(r.Releases) != 0 || generation(t, r, 3).Release != 1 {
			t.Errorf("afterwards: %+v", r)
		}
		none(t, "fresh", fresh.Stop(), 20)
		d.Stop()
	})
	t.Run("from a newcomer that is not ready", func(t *testing.T) {
		testkit.Leaks(t)
		file := t.TempDir() + "/behaviours"
		testkit.Behave(t, file, "ready=none")
		a := run(t, config(t, testkit.Target("@"+file), quick, listen("web", "127.0.0.1:0")))
		testkit.Behave(t, file, "hang")
		from := a.Next()
		verdict := make(chan int, 1)
		go func() { // ends with the verdict
			code, _, _ := a.baton("reload", "test")
			verdict <- code
		}()
		a.WaitEvent(from, "started", "generation", 2)
		wants(t, a, 0, "generation 1 serves", "")
		if code := <-verdict; code != 3 {
			t.Errorf("the reload's exit code is %d", code)
		}
		a.gone(2)
		a.Stop()
	})
	t.Run("over several releases", func(t *testing.T) {
		testkit.Leaks(t)
		d := newTree(t)
		for _, v := range []string{"v2", "v3", "v4", "v5"} {
			d.release(v, "ready=none")
			d.point(v)
			d.swap()
			d.gone(d.last - 1)
		}
		var kept []string
		for _, r := range d.state().Releases {
			kept = append(kept, filepath.Base(r.Directory))
		}
		if want := []string{"v4", "v3", "v2"}; !slices.Equal(kept, want) {
			t.Errorf("kept: %v, want %v", kept, want)
		}
		for i, v := range []string{"v4", "v3", "v2"} {
			wants(t, d.app, 0, fmt.Sprintf("generation %d serves", 6+i), "")
			if _, dir, _ := d.runs(6 + i); dir != filepath.Join(d.root, v) {
				t.Errorf("runs in %s, want %s", dir, v)
			}
			d.gone(5 + i)
		}
		wants(t, d.app, 1, "", "there is no release to go back to")
		d.Stop()
	})
}

// An interpreter reads what lies on disk: baton says what it can bring back, and brings
// back that.
func TestARollbackOfAnInterpretedProgramSaysWhatItRestores(t *testing.T) {
	python := program(t, "python3")
	testkit.Leaks(t)
	root := shortDir(t)
	source, err := os.ReadFile(testdata(t, "server.py"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"v1", "v2"} {
		mkdir(t, filepath.Join(root, v))
		write(t, filepath.Join(root, v, "server.py"), string(source))
	}
	d := &tree{t: t, root: root, path: filepath.Join(root, "baton.toml")}
	d.point("v1")
	rewrite(t, d.path, []string{python, "server.py", "systemd"}, fmt.Sprintf("directory = %q", filepath.Join(root, "current")), quick, listen("web", "127.0.0.1:0"))
	d.app = run(t, d.path)
	d.point("v2")
	d.swap()
	d.gone(1)
	from := d.Next()
	if code, _, errs := d.baton("rollback", "test"); code != 0 {
		t.Errorf("exit code %d, %s", code, errs)
	}
	line := d.WaitLogFrom(from, "only the directory and the environment")
	if e := line.Event(); e["level"] != "WARN" || !strings.Contains(line.Text, "runs what lies on disk now") {
		t.Errorf("%s", line.Text)
	}
	if _, dir, _ := d.runs(3); dir != filepath.Join(root, "v1") {
		t.Errorf("runs in %s", dir)
	}
	d.Stop()
}

// A file that was written into is not what it was: baton does not run it for the old
// release, neither when it is asked to nor by itself, and what serves goes on.
func TestAnExecutableThatWasWrittenIntoIsNotGoneBackTo(t *testing.T) {
	testkit.Leaks(t)
	d := newTree(t)
	fresh := begun(t, load.Options{Targets: []load.Target{d.address("web")}, Clients: 4})
	d.release("v2", "ready=none")
	d.point("v2")
	d.swap()
	d.gone(1)
	spoil := func(release string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(d.root, release, "server"), []byte("#!/bin/false\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	spoil("v1")
	if code, out, errs := d.baton("rollback", "test"); code != 1 || !strings.Contains(errs, "was written into") || !strings.Contains(errs, "v1") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if got := served(t, d.address("web")); got != "2" {
		t.Errorf("generation %s serves", got)
	}
	if r := d.state(); r.State != event.StateServing || len(r.Releases) != 0 {
		t.Errorf("afterwards: %+v", r)
	}
	none(t, "fresh", fresh.Stop(), 20)

	d.release("v3", "crash=300ms") // slow enough for v2 to be gone before the third restart
	d.point("v3")
	from := d.Next()
	d.HUP() // generation 3 was refused
	d.WaitEvent(from, "serving", "generation", 4)
	d.gone(2)
	spoil("v2")
	line := d.WaitEvent(from, "refused")
	if said := fmt.Sprint(line.Event()["reason"]); !strings.Contains(said, "was written into") {
		t.Errorf("%s", line.Text)
	}
	n := d.died(4)
	testkit.Wait(t, func() bool { return d.died(4) > n }, "the release that serves to be tried on")
	d.Stop()
}

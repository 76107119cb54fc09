package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"baton/internal/testkit"
)

// asPIDOne starts baton as PID 1 of a pid namespace with a /proc of its own, as a
// container has it. Its pids in the log are those of the namespace, while the test sees
// and signals it from outside.
func asPIDOne(t *testing.T, path string, args ...string) *app {
	t.Helper()
	if os.Geteuid() != 0 {
		testkit.Lack(t, "needs root: it makes a pid namespace")
	}
	l := testkit.NewBaton(t, append([]string{"run", "--config", path, "--log", "json"}, args...)...)
	l.Cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
	l.StartBy = func(c *exec.Cmd) error {
		c.Args = append([]string{"sh", "-c", `mount --make-rprivate / && mount -t proc proc /proc && exec "$@"`, "sh", c.Path}, c.Args[1:]...)
		c.Path = "/bin/sh"
		return c.Start()
	}
	l.Start()
	return &app{Launcher: l, t: t}
}

// outside is the pid that a child of baton has for the test.
func (a *app) outside(inside int) int {
	a.t.Helper()
	for _, pid := range a.Children() {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // gone meanwhile: another is meant
		if strings.Contains(string(status), fmt.Sprintf("\nNSpid:\t%d\t%d\n", pid, inside)) {
			return pid
		}
	}
	a.t.Fatalf("no child of baton has the pid %d", inside)
	return 0
}

// zombies counts the children of a process that nobody has waited for.
func zombies(t *testing.T, parent int) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // gone meanwhile
		}
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if f[0] == "Z" && f[1] == strconv.Itoa(parent) {
			n++
		}
	}
	return n
}

// As PID 1 baton is given every process whose parent has died: it waits for all of them,
// and for its own workers nobody else does.
func TestAsPIDOneBatonReapsAThousandOrphansAndNoExitIsAnothers(t *testing.T) {
	testkit.Leaks(t)
	const rounds, each = 8, 125
	parents := filepath.Join(t.TempDir(), "parents")
	web := "[restart]\nbackoff_min = \"1ms\"\nbackoff_max = \"1ms\"\n" + listen("web", "127.0.0.1:0")
	path := config(t, testkit.Target(), quick, web)
	a := asPIDOne(t, path)
	worker := number(t, a.WaitEvent(0, "ready", "generation", 1), "pid")
	a.serving(1)
	for n := range rounds {
		// Each orphan, in a session of its own since baton would end the others, says whose
		// child it has become, and ends with a code that no worker has. The worker ends while
		// they do.
		code := 10 + n
		rewrite(t, path, []string{"sh", "-c", fmt.Sprintf(`
touch %[1]s
orphan='while read -r _ _ _ parent _ </proc/self/stat; [ $parent != 1 ]; do sleep 0.01; done; echo $parent >>%[1]s; sleep 0.03; exit 99'
i=0
while [ $i -lt %[2]d ]; do
	(setsid sh -c "$orphan" &)
	i=$((i+1))
done
while [ $(wc -l <%[1]s) -lt %[3]d ]; do sleep 0.01; done
exit %[4]d`, parents, each, each*(n+1), code)}, quick, web)
		from := a.Next()
		a.HUP()
		a.WaitEvent(from, "crashed", "generation", n+2, "reason", fmt.Sprintf("exit status %d", code))
		a.WaitEvent(from, "rolledback", "generation", n+2)
		kill(t, a.outside(worker))
		a.WaitEvent(from, "crashed", "generation", 1, "pid", worker, "reason", "signal: killed")
		worker = number(t, a.WaitEvent(from, "ready", "generation", 1), "pid")
	}
	testkit.Wait(t, func() bool { return zombies(t, a.PID()) == 0 }, "no zombie")
	if got, want := contents(t, parents), strings.Repeat("1\n", rounds*each); got != want {
		t.Errorf("not all orphans became children of PID 1: %d of %d lines say so", strings.Count(got, "1\n"), rounds*each)
	}
	a.Stop()
}

// PID 1 has no default action for any signal: one that baton does not handle itself
// would do nothing (pid_namespaces(7)).
func TestAsPIDOneBatonObeysItsSignals(t *testing.T) {
	testkit.Together(t)
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT} {
		t.Run(end.String(), func(t *testing.T) {
			testkit.Leaks(t)
			a := asPIDOne(t, config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0")))
			a.serving(1)
			a.swap()
			a.Signal(syscall.SIGTTIN)
			a.WaitEvent(0, "scaled", "generation", 2)
			a.Signal(end)
			if code := a.Wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// Who runs a container sees the code alone: it is the application's.
func TestAsPIDOneBatonExitsAsItsApplicationDoes(t *testing.T) {
	testkit.Together(t)
	web := listen("web", "127.0.0.1:0")
	stay := "[restart]\nstop_exit_codes = [0, 9]\n" + web
	later := func(code string) []string {
		return []string{"sh", "-c", "sleep 0.5; exit " + code}
	}
	const soon = "[handoff]\nready = \"delay\"\nready_delay = \"100ms\""
	for name, c := range map[string]struct {
		path string
		code int
	}{
		"never served":                {config(t, testkit.Target("exit=78"), quick, web), 78},
		"killed before it served":     {config(t, []string{"sh", "-c", "kill -9 $$"}, quick, web), 137},
		"0 before it served":          {config(t, []string{"true"}, quick, web), 1},
		"cannot be executed":          {config(t, []string{"/nowhere/server"}, quick, web), 1},
		"not ready in time":           {config(t, testkit.Target("hang"), quick, "ready_timeout = \"200ms\"", web), 1},
		"done":                        {config(t, later("0"), soon, stay), 0},
		"ended to stay, with a code":  {config(t, later("9"), soon, stay), 9},
		"a configuration that is not": {config(t, []string{"true"}, "colour = 1", web), 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if code := asPIDOne(t, c.path).Wait(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
		})
	}
}

// What an operator leaves behind in the container becomes baton's child as well, and is
// an operator still.
func TestAsPIDOneBatonObeysAnOperatorWhoseShellIsGone(t *testing.T) {
	testkit.Leaks(t)
	a := asPIDOne(t, config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0")))
	a.serving(1)
	// As docker exec would: a process of the namespace whose parent is outside of it.
	in := exec.Command("nsenter", "-t", strconv.Itoa(a.PID()), "-p", "-m", "sh", "-c",
		"(setsid sh -c 'while read -r _ _ _ p _ </proc/self/stat; [ $p != 1 ]; do :; done; kill -TERM 1; sleep 1' >/dev/null 2>&1 &)")
	if out, err := in.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if code := a.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

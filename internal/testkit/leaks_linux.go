package testkit

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// Leaks fails the test when it leaves behind a goroutine, a descriptor, or a
// child process that was not there when Leaks was called. It is called before
// the test makes anything, so that it looks last, and not in parallel tests,
// which would see each other's: under RunTogether it makes the test one of those, and
// what is left is looked for when all are over.
func Leaks(t testing.TB) {
	t.Helper()
	if Together(t) {
		return
	}
	found := watch(t)
	t.Cleanup(func() {
		if t.Failed() {
			return // what it left is the failure's, and the failure says more
		}
		for _, what := range found() {
			t.Error(what)
		}
	})
}

// Together makes the test one of those that RunTogether runs in parallel, and says whether
// it does.
func Together(t testing.TB) bool {
	tests, ok := t.(*testing.T)
	if !ok || !together {
		return false
	}
	if _, twice := parallel.LoadOrStore(t, true); !twice {
		tests.Parallel()
	}
	return true
}

var (
	together bool     // RunTogether runs
	parallel sync.Map // testing.TB: it has been made parallel
)

// RunTogether is m.Run for a package whose tests wait more than they work: those that
// call Leaks or Together run in parallel, and the package as a whole is held to leave nothing.
func RunTogether(m *testing.M) int {
	together = true
	found := watch(nobody{})
	code := m.Run()
	if code != 0 {
		return code
	}
	for _, what := range found() {
		fmt.Println("FAIL: the tests together left behind", what)
		code = 1
	}
	return code
}

// nobody is whom RunTogether's looks are reported to.
type nobody struct{ testing.TB }

func (nobody) Helper()                  {}
func (nobody) Fatal(args ...any)        { panic(fmt.Sprint(args...)) }
func (nobody) Context() context.Context { return context.Background() }

// watch notes what there is, and returns what tells of what was not there then.
func watch(t testing.TB) func() []string {
	t.Helper()
	wakeNetpoll(t)
	goroutines := goleak.IgnoreCurrent()
	files := descriptors(t)
	before := children(os.Getpid())
	return func() (all []string) {
		// goleak itself gives up after less than half a second, which a busy machine may
		// take to let a goroutine run that has nothing more to do than to end.
		var alive error
		if !poll(settle, func() bool { alive = goleak.Find(goroutines); return alive == nil }) {
			all = append(all, alive.Error())
		}
		var left []string
		if !poll(settle, func() bool { left = opened(files, descriptors(t)); return len(left) == 0 }) {
			all = append(all, fmt.Sprintf("descriptors left behind: %v", left))
		}
		var born []string
		if !poll(settle, func() bool { born = newborn(before); return len(born) == 0 }) {
			all = append(all, fmt.Sprintf("child processes left behind: %v", born))
		}
		return all
	}
}

// wakeNetpoll makes the runtime open its own descriptors, which stay.
func wakeNetpoll(t testing.TB) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

// descriptors of this process and what each is.
func descriptors(t testing.TB) map[string]string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		// The descriptor that ReadDir used is gone by now.
		if link, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			all[e.Name()] = link
		}
	}
	return all
}

func opened(before, now map[string]string) []string {
	var left []string
	for fd, link := range now {
		if before[fd] != link {
			left = append(left, fd+" "+link)
		}
	}
	return left
}

func newborn(before map[int]string) []string {
	var born []string
	for pid, what := range children(os.Getpid()) {
		if _, old := before[pid]; !old {
			born = append(born, fmt.Sprintf("%d %s", pid, what))
		}
	}
	return born
}

// Descriptors is how many descriptors process pid has open; 0 when it is gone.
func Descriptors(pid int) int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0
	}
	return len(entries)
}

// Children are the pids of the children of process pid, zombies included.
func Children(pid int) []int { return slices.Sorted(maps.Keys(children(pid))) }

// children reads the field ppid of every process (proc_pid_stat(5)).
func children(parent int) map[int]string {
	found := map[int]string{}
	for _, pid := range pids() {
		if s, err := readStat(pid); err == nil && s.parent == parent {
			found[pid] = s.what
		}
	}
	return found
}

type stat struct {
	parent int
	what   string // name and state
}

func readStat(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The name stands in parentheses and may hold any character.
	end := strings.LastIndexByte(string(text), ')')
	fields := strings.Fields(string(text[end+1:]))
	if end < 0 || len(fields) < 2 {
		return stat{}, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	parent, err := strconv.Atoi(fields[1])
	_, name, _ := strings.Cut(string(text[:end+1]), " ")
	return stat{parent, name + " " + fields[0]}, err
}

func pids() []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // fails only for a bad pattern
	all := make([]int, 0, len(dirs))
	for _, d := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(d)); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// marked are the processes whose environment at their exec had the entry, but
// for zombies, which have none.
func marked(entry string) map[int]string {
	found := map[int]string{}
	for _, pid := range pids() {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || !slices.Contains(strings.Split(string(env), "\x00"), entry) {
			continue
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // empty when it has just ended
		found[pid] = strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
	}
	return found
}

// Listening tells whether any process of this network namespace listens on a
// TCP port.
func Listening(t testing.TB, port int) bool {
	t.Helper()
	suffix := fmt.Sprintf(":%04X", port)
	for _, table := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			// sl, local_address, rem_address, st; 0A is TCP_LISTEN.
			if f := strings.Fields(line); len(f) > 3 && f[3] == "0A" && strings.HasSuffix(f[1], suffix) {
				return true
			}
		}
	}
	return false
}

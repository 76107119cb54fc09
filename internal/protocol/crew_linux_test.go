package protocol

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"baton/internal/process"
	"baton/internal/testkit"
)

// childVariable makes the test binary one of the children.
const childVariable = "PROTOCOL_TEST_CHILD"

var children = map[string]func(){
	"layout":    layoutChild,
	"tableflip": tableflipChild,
	"einhorn":   einhornChild,
	"watchdog":  watchdogChild,
}

// crew is one worker: started by the real shim with a Link's descriptors and
// variables, as the engine does it.
type crew struct {
	t    *testing.T
	hub  *Hub
	link *Link
	box  inbox
	log  *logbook
	out  *logbook

	choice *Choice
	worker *Worker

	mu   sync.Mutex
	proc *process.Process
}

// crewed starts a command as a worker, with protocols as they are chosen for these
// settings. It ends with the test.
func crewed(t *testing.T, s Settings, sockets []Socket, env []string, command ...string) *crew {
	t.Helper()
	w := unstarted(t, s, sockets)
	w.start(env, command...)
	return w
}

// unstarted is a worker whose link is open, and no more.
func unstarted(t *testing.T, s Settings, sockets []Socket) *crew {
	t.Helper()
	return watched(t, s, sockets, 0)
}

// watched is one that is asked to be heard of.
func watched(t *testing.T, s Settings, sockets []Socket, watchdog time.Duration) *crew {
	t.Helper()
	leak, before := goleak.IgnoreCurrent(), openFDs(t)
	w := &crew{t: t, box: make(inbox, 4096), log: &logbook{}, out: &logbook{}}
	log := slog.New(slog.NewTextHandler(w.log, nil))
	w.hub = NewHub(HubOptions{Log: log})
	var err error
	w.choice = choose(t, s, executable("/srv/app", ""))
	w.worker = &Worker{
		Generation: 7, Index: 2, Sockets: sockets, Member: w.member, On: func(m Message) { w.box <- m }, Log: log,
		Watchdog: watchdog,
	}
	w.link, err = w.hub.Open(w.choice, w.worker)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.close()
		if err := w.hub.Close(); err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t, leak)
		eventually(t, "as many descriptors as before", func() bool {
			if w.proc != nil {
				_ = w.proc.Kill() // it lets go of its pidfd when the whole group is gone
			}
			return openFDs(t) <= before
		})
		if t.Failed() {
			t.Logf("log:\n%soutput:\n%s", w.log, w.out)
		}
	})
	return w
}

func (w *crew) member(pid int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.proc != nil && w.proc.Contains(pid)
}

func (w *crew) start(env []string, command ...string) {
	w.t.Helper()
	release, err := process.Resolve(process.Command{Exec: command, Base: append(Scrub(os.Environ()), env...)})
	if err != nil {
		w.t.Fatal(err)
	}
	defer release.Close()
	r, out, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	copied := make(chan struct{})
	go func() { // ends with the last process that has the pipe
		defer close(copied)
		_, _ = io.Copy(w.out, r) // what came is there
		r.Close()
	}()
	w.mu.Lock()
	w.proc, err = process.Start(context.Background(), process.Spec{
		Release: release, Files: w.link.Files(), Env: append(release.Env(), w.link.Env()...),
		Stdin: -1, Stdout: int(out.Fd()), Stderr: int(out.Fd()),
	})
	w.mu.Unlock()
	out.Close()
	w.link.Started()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		w.end()
		within(w.t, "the end of the output", copied)
	})
}

// end kills the worker and what it has started.
func (w *crew) end() {
	_ = w.proc.Kill() // gone already is as good
	within(w.t, "the worker's end", w.proc.Done())
}

func (w *crew) close() {
	if err := w.link.Close(); err != nil {
		w.t.Error(err)
	}
}

// says waits for a line of output.
func (w *crew) says(line string) {
	w.t.Helper()
	eventually(w.t, "output "+line, func() bool { return strings.Contains("\n"+w.out.String(), "\n"+line+"\n") })
}

// logs waits for words in the log.
func (w *crew) logs(words string) {
	w.t.Helper()
	eventually(w.t, "log "+words, func() bool { return w.log.count(words) > 0 })
}

// ready waits for the ready message.
func (w *crew) ready(via string) Message {
	w.t.Helper()
	m := w.box.next(w.t)
	if !m.Ready || m.Via != via {
		w.t.Errorf("message %+v, want ready by %s", m, via)
	}
	return m
}

// silent is for the end of a test, when the launcher has shown that it has seen all
// there was: no message came of it.
func (w *crew) silent() {
	w.t.Helper()
	if len(w.box) > 0 {
		w.t.Errorf("a message came: %+v", <-w.box)
	}
}

// self starts the test binary as one of the children.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// needs skips where there is no such program.
func needs(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		testkit.Lack(t, "needs %s: %v", program, err)
	}
	return path
}

// two are listeners for tests: tcp on loopback, and a path.
func two(t *testing.T) []Socket {
	t.Helper()
	dir, err := os.MkdirTemp("", "p") // short, for the unix socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	web, app := listening(t, "tcp", "127.0.0.1:0"), listening(t, "unix", filepath.Join(dir, "s"))
	web.Name, app.Name = "web", "app"
	return []Socket{web, app}
}

// layoutChild prints its descriptors from 3 on, and its variables of protocols.
func layoutChild() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		var fd int
		if _, scanned := fmt.Sscan(e.Name(), &fd); err != nil || scanned != nil || fd < 3 {
			continue // the one of the directory is gone
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue // Go's own: what is inherited cannot have it
		}
		if kind, _, ok := strings.Cut(to, ":["); ok {
			to = kind
		}
		if l, err := net.FileListener(os.NewFile(uintptr(fd), "")); err == nil {
			to = l.Addr().String()
		}
		fmt.Printf("%d %s\n", fd, to)
	}
	env := os.Environ()
	slices.Sort(env)
	for _, kv := range env {
		if len(Scrub([]string{kv})) == 0 {
			fmt.Println(kv)
		}
	}
	fmt.Println("parent", os.Getppid())
	fmt.Println("end")
}

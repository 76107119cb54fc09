package handoff_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"baton/handoff"
	"baton/internal/event"
	"baton/internal/keep"
	"baton/internal/logs"
)

// The other end of keep_kit_linux_test.go: the launcher, in a process of its own.

// launcher is the program.
type launcher struct {
	*handoff.Supervisor
	out *logs.Passthrough

	mu   sync.Mutex
	to   *json.Encoder // standard output
	plan *handoff.Plan
	dies func(handoff.State) bool // nil: not by itself
	hang bool                     // the configuration cannot be read

	stored map[string]bool // belongs to keep
}

// storeFD is the socket that descriptors go over.
const storeFD = 3

func launcherMain() {
	l := &launcher{to: json.NewEncoder(os.Stdout), stored: make(map[string]bool)}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	sure(err)
	l.out = logs.NewPassthrough(null, null)
	orders := json.NewDecoder(os.Stdin)
	var first order
	if path := os.Getenv("HANDOFF_TEST_ESTATE"); path != "" { // this was another program
		text, err := os.ReadFile(path)
		sure(err)
		sure(json.Unmarshal(text, &first))
	} else {
		sure(orders.Decode(&first))
	}
	l.plan = first.Plan
	o := handoff.Options{
		Name: "test", Load: l.load, Observe: func(e event.Event) { l.tell(told{Event: &e}) }, Keep: l.keep,
		Output: func(int, int) (handoff.Output, error) {
			o, err := l.out.Open()
			return piped{o}, err
		},
		ResumeOutput: func(_, _ int, kept json.RawMessage, prefix string, f *keep.Files) (handoff.Output, error) {
			var s logs.OutputState
			if err := json.Unmarshal(kept, &s); err != nil {
				return nil, err
			}
			o, err := l.out.Resume(s, prefix, f)
			if o == nil {
				return nil, err
			}
			return piped{o}, err
		},
	}
	if first.Do == "begin" {
		l.Supervisor = handoff.New(o)
	} else {
		l.resume(o, first)
	}
	go func() { // ends with the process
		for {
			var o order
			if orders.Decode(&o) != nil {
				os.Exit(0) // the test is over
			}
			l.obey(o)
		}
	}()
	err = l.Run(context.Background())
	l.out.Close()
	l.tell(told{Ended: fmt.Sprint(err)})
	os.Exit(0)
}

func (l *launcher) resume(o handoff.Options, first order) {
	f := &keep.Files{}
	if os.Getenv("HANDOFF_TEST_ESTATE") != "" {
		var numbers map[string]int
		sure(json.Unmarshal([]byte(os.Getenv("HANDOFF_TEST_NUMBERS")), &numbers))
		for name, fd := range numbers {
			f.Put(name, fd)
		}
		for _, name := range first.Store {
			l.stored[name] = true
		}
	} else {
		for range first.Names {
			name, fd, err := receive(storeFD)
			sure(err)
			f.Put(name, fd)
			l.stored[name] = true
		}
	}
	var s handoff.State
	sure(json.Unmarshal(first.State, &s))
	sure(s.Check(f))
	var err error
	l.Supervisor, err = handoff.Resume(o, s, f)
	sure(err)
	var left []string
	f.Each(func(name string, _ int) { left = append(left, name) })
	f.Close()
	l.tell(told{Answer: &answer{Left: left}})
}

func sure(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "launcher of a test:", err)
		os.Exit(97)
	}
}

func (l *launcher) tell(what told) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.to.Encode(what) // the test is over: obey ends
}

func (l *launcher) load() (*handoff.Plan, error) {
	l.mu.Lock()
	plan, hang := *l.plan, l.hang
	l.mu.Unlock()
	if hang {
		select {}
	}
	return &plan, nil
}

func (l *launcher) keep(s handoff.State, f *keep.Files) {
	f.Each(func(name string, fd int) {
		if !l.stored[name] {
			l.stored[name] = true
			sure(send(storeFD, name, fd))
		}
	})
	text, err := json.Marshal(s)
	sure(err)
	l.tell(told{State: text})
	for name := range l.stored {
		if !f.Has(name) {
			delete(l.stored, name)
			sure(send(storeFD, "-"+name, -1))
		}
	}
	l.mu.Lock()
	dies := l.dies
	l.mu.Unlock()
	if dies != nil && dies(s) {
		die()
	}
}

func die() {
	sure(syscall.Kill(os.Getpid(), syscall.SIGKILL))
	select {}
}

// obey does what it is told and answers.
func (l *launcher) obey(o order) {
	failed := make(chan error, 1)
	said := func(_ int, err error) { failed <- err }
	a := &answer{}
	switch o.Do {
	case "report":
		a.Report = l.Glance()
		failed <- nil
	case "plan", "hang":
		l.mu.Lock()
		if l.hang = o.Do == "hang"; !l.hang {
			l.plan = o.Plan
		}
		l.mu.Unlock()
		failed <- nil
	case "reload", "rollback":
		verdict := func(v handoff.Verdict) { l.tell(told{Verdict: &v}) }
		if o.Do == "reload" {
			l.Reload(verdict)
		} else {
			l.Rollback(verdict)
		}
		failed <- nil
	case "promote":
		l.Promote(false, func(err error) { failed <- err })
	case "scale":
		l.Scale(o.N, false, said)
	case "stop":
		l.Stop()
		failed <- nil
	case "die":
		l.mu.Lock()
		l.dies = moments[o.When]
		l.mu.Unlock()
		failed <- nil
		if o.When == "now" {
			l.Glance() // what was posted is kept
			die()
		}
	case "become":
		failed <- l.Freeze(l.become)
	}
	if err := <-failed; err != nil {
		a.Error = err.Error()
	}
	l.tell(told{Answer: a})
}

// become has another program take this one's place in its process.
func (l *launcher) become(take func() (handoff.State, *keep.Files)) error {
	sure(l.out.Pause())
	s, f := take()
	text, err := json.Marshal(s)
	sure(err)
	text, err = json.Marshal(order{Do: "resume", Plan: l.plan, State: text, Store: slices.Collect(maps.Keys(l.stored))})
	sure(err)
	numbers := make(map[string]int)
	f.Each(func(name string, fd int) {
		numbers[name] = fd
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
		sure(err)
	})
	_, err = unix.FcntlInt(storeFD, unix.F_SETFD, 0)
	sure(err)
	names, err := json.Marshal(numbers)
	sure(err)
	path := os.Getenv("HANDOFF_TEST_DIR") + "/estate"
	sure(os.WriteFile(path, text, 0o600))
	env := append(os.Environ(), "HANDOFF_TEST_ESTATE="+path, "HANDOFF_TEST_NUMBERS="+string(names))
	return syscall.Exec("/proc/self/exe", os.Args, env)
}

// send and receive hand a descriptor over, by name; below 0: only the name.
func send(socket int, name string, fd int) error {
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	return unix.Sendmsg(socket, []byte(name), rights, nil, 0)
}

func receive(socket int) (name string, fd int, err error) {
	text, rights := make([]byte, 300), make([]byte, 64)
	n, r, _, _, err := unix.Recvmsg(socket, text, rights, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return "", -1, err
	}
	if n == 0 {
		return "", -1, io.EOF
	}
	if r == 0 {
		return string(text[:n]), -1, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights[:r])
	if err != nil {
		return "", -1, err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return "", -1, err
	}
	return string(text[:n]), fds[0], nil
}

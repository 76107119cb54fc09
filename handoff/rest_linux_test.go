package handoff_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"baton/internal/event"
	"baton/internal/testkit"

	"golang.org/x/sys/unix"
)

// What a launcher alone has of a port hears nobody, before it is given to a worker and
// after: were it killed now, its sockets would be closed, with whoever is in their queues.
func TestOnlyWhatWorkersHaveHears(t *testing.T) {
	e := start(t)
	e.wait(event.Serving, 1)
	for generation := 2; generation <= 3; generation++ {
		e.reload()
		e.wait(event.Gone, generation-1)
	}
	r := e.Report()
	port := ""
	for _, l := range r.Listeners {
		if at, ok := strings.CutPrefix(l.Address, "tcp://127.0.0.1:"); ok {
			port = at
		}
	}
	worker := r.Generations[0].Workers[0].PID
	testkit.Wait(t, func() bool {
		its, others := listening(t, worker, port)
		return its == [2]int{1, 0} && others[0] == 0 && others[1] > 1
	}, "nothing but the worker's to hear")
	e.stop()
}

// listening counts this process's sockets that listen on the port, those that hear and
// those that are deaf: of those that the worker has, and of others.
func listening(t *testing.T, worker int, port string) (its, others [2]int) {
	t.Helper()
	theirs := make(map[string]bool)
	for _, fd := range descriptors(t, fmt.Sprintf("/proc/%d/fd", worker)) {
		theirs[fd.name] = true
	}
	for _, fd := range descriptors(t, "/proc/self/fd") {
		if on, err := unix.GetsockoptInt(fd.number, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
			continue
		}
		at, err := unix.Getsockname(fd.number)
		if a, ok := at.(*unix.SockaddrInet4); err != nil || !ok || strconv.Itoa(a.Port) != port {
			continue
		}
		least, err := unix.GetsockoptInt(fd.number, unix.IPPROTO_IP, unix.IP_MINTTL)
		if err != nil {
			t.Fatal(err)
		}
		kind := min(least, 1) // 0: it hears
		if theirs[fd.name] {
			its[kind]++
		} else {
			others[kind]++
		}
	}
	return its, others
}

type descriptor struct {
	number int
	name   string
}

func descriptors(t *testing.T, dir string) (all []descriptor) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		number, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if name, err := os.Readlink(dir + "/" + e.Name()); err == nil { // an error: it was closed since
			all = append(all, descriptor{number, name})
		}
	}
	return all
}

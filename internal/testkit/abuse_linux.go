package testkit

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// abuse does to an inherited socket what a program may, on /abuse?what=...: to
// the socket that the request came by, or to number ?socket=. A server whose
// accept fails from then on ends, as most do, unless its behaviour is "stay".
//
//	close       closes every descriptor of its own
//	shutdown    shutdown(2) of it
//	disconnect  connect(2) to AF_UNSPEC
//	relisten    listen(2) with a backlog of 1, or ?backlog=
//	reuseport   clears SO_REUSEPORT
//	detach      detaches the group's program
//	blocking    clears O_NONBLOCK of the open file description
//	stop        stops accepting
//	unlink      unlinks its path
//	child       leaves a child that holds ?hold=sockets|pipes|both[,session]
//	exit        ends with ?code=
//	crash       panics
//	kill        kills itself
//	leak        allocates ?bytes=
//	sick        answers 500 to the next ?times= questions at /healthz
//	silence     sends no WATCHDOG=1 any more
func (w *worker) abuse(rw http.ResponseWriter, r *http.Request) {
	s, _ := r.Context().Value(socketKey{}).(*socket)
	if i, err := strconv.Atoi(r.FormValue("socket")); err == nil && i >= 0 && i < len(w.sockets) {
		s = w.sockets[i]
	}
	if s == nil || s.fd < 0 {
		http.Error(rw, "no inherited socket", http.StatusBadRequest)
		return
	}
	if err := w.abuseSocket(s, r); err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	pattern(rw)
}

func (w *worker) abuseSocket(s *socket, r *http.Request) error {
	switch what := r.FormValue("what"); what {
	case "close":
		if err := unix.Close(s.fd); err != nil {
			return err
		}
		return s.Close()
	case "shutdown":
		return unix.Shutdown(s.fd, unix.SHUT_RDWR)
	case "disconnect":
		return disconnect(s.fd)
	case "relisten":
		backlog, err := strconv.Atoi(r.FormValue("backlog"))
		if err != nil {
			backlog = 1
		}
		return unix.Listen(s.fd, backlog)
	case "reuseport":
		return unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 0)
	case "detach":
		return unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0)
	case "blocking":
		return unix.SetNonblock(s.fd, false)
	case "stop":
		return s.stop()
	case "unlink":
		return os.Remove(s.Addr().String())
	default:
		return w.abuseSelf(what, r)
	}
}

func (w *worker) abuseSelf(what string, r *http.Request) error {
	switch what {
	case "child":
		pid, err := w.spawnHolder(r.FormValue("hold"))
		if err == nil {
			fmt.Fprintf(os.Stdout, "target: child %d\n", pid)
		}
		return err
	case "exit":
		code, err := strconv.Atoi(r.FormValue("code"))
		if err != nil {
			return err
		}
		w.lastWords()
		os.Exit(code)
	case "crash":
		w.lastWords()
		go panic("target: crash, as it was told") // in a handler net/http would recover it
		<-time.After(time.Minute)
	case "kill":
		return unix.Kill(os.Getpid(), unix.SIGKILL)
	case "leak":
		n, err := strconv.Atoi(r.FormValue("bytes"))
		if err != nil {
			return err
		}
		w.grow(n)
		return nil
	case "sick":
		n, err := strconv.ParseInt(r.FormValue("times"), 10, 64)
		if err != nil {
			return err
		}
		w.sick.Store(n)
		return nil
	case "silence":
		w.silent.Store(true)
		return nil
	}
	return fmt.Errorf("what=%s: unknown", what)
}

// disconnect takes a listening socket out of its group and closes it
// (connect(2): AF_UNSPEC dissolves the association; x/sys has no type for it).
func disconnect(fd int) error {
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	if errno != 0 {
		return errno
	}
	return nil
}

// spawnHolder starts a child with the sockets, with this process's stdout and
// stderr, or with both, and returns its pid. The descriptors are passed bare:
// os.File.Fd would clear O_NONBLOCK for everybody who shares the socket.
func (w *worker) spawnHolder(what string) (int, error) {
	what, session := strings.CutSuffix(what, ",session")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	files := []uintptr{null.Fd(), null.Fd(), null.Fd()}
	if what == "pipes" || what == "both" {
		files[1], files[2] = 1, 2
	}
	if what == "sockets" || what == "both" {
		for _, s := range w.sockets {
			files = append(files, uintptr(s.fd))
		}
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	return syscall.ForkExec(self, []string{self, holderArg}, &syscall.ProcAttr{
		Env: os.Environ(), Files: files, Sys: &syscall.SysProcAttr{Setsid: session},
	})
}

package process

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	// A launcher that is given orphans, as PID 1 is. Each worker leaves an orphan that ends
	// at once, and ends with a code of its own; half of the orphans end before it, half
	// after. It says how many exits it was told, and what is left.
	targets["adopt"] = func(args []string) {
		exit(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
		Reap()
		count, _ := strconv.Atoi(args[0])
		wrong := make(chan string, count)
		var all sync.WaitGroup
		for n := range count {
			all.Go(func() {
				code := n % 64
				script := fmt.Sprintf("(setsid sh -c 'exit 99' &); (sleep 0.0%d & exit 98); exit %d", n%10, code)
				r, err := Resolve(Command{Exec: []string{"/bin/sh", "-c", script}})
				exit(err)
				p, err := Start(context.Background(), Spec{Release: r, Env: r.Env(), Stdin: -1, Stdout: -1, Stderr: 2})
				exit(err)
				<-p.Done()
				if got := p.Status().String(); got != fmt.Sprintf("exit status %d", code) {
					wrong <- got
				}
				exit(r.Close())
			})
		}
		all.Wait()
		close(wrong)
		for w := range wrong {
			fmt.Println("wrong:", w)
		}
		fmt.Println("told")
		awaitNoChild()
		fmt.Println("none left")
	}
	// A child that a library forks while reaping is held is the library's to wait for.
	targets["hold"] = func([]string) {
		exit(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
		Reap()
		release := HoldReaping()
		cmd := exec.Command("/bin/sh", "-c", "(setsid true &); exit 7")
		exit(cmd.Start())
		// It has ended, and one of ours after it: whoever reaps has been told.
		exit(uninterrupted(func() error {
			return unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		}))
		r, err := Resolve(Command{Exec: []string{"/bin/true"}})
		exit(err)
		for range 20 {
			p, err := Start(context.Background(), Spec{Release: r, Env: r.Env(), Stdin: -1, Stdout: -1, Stderr: 2})
			exit(err)
			<-p.Done()
		}
		fmt.Println(cmd.Wait())
		release()
		awaitNoChild()
		fmt.Println("none left")
	}
}

// awaitNoChild returns when this process has no child any more, not even one that has
// ended and was not reaped.
func awaitNoChild() {
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, syscall.ECHILD) {
			return
		}
	}
}

func TestOrphansAreReapedAndNoWorkersExitIsStolen(t *testing.T) {
	p := start(t, resolve(t, target(t, "adopt", "200")))
	p.says(t, "told")
	p.says(t, "none left")
}

func TestReapingCanBeHeldForAChildOfALibrary(t *testing.T) {
	p := start(t, resolve(t, target(t, "hold")))
	p.says(t, "exit status 7")
	p.says(t, "none left")
}

// Who adopts nobody has no goroutine for it, and leaves SIGCHLD alone.
func TestAnOrdinaryLauncherReapsNobody(t *testing.T) {
	if Adopts() {
		t.Skip("this test runs as PID 1, or as a subreaper")
	}
	Reap()
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
}

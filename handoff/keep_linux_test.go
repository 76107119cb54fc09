package handoff_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"baton/handoff"
	"baton/handoff/machine"
	"baton/health"
	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/testkit"

	"golang.org/x/sys/unix"
)

// loaded asks for pages on both listeners until stopped: then none was lost.
func (r *realm) loaded() (stop func()) {
	r.t.Helper()
	var targets []load.Target
	for _, l := range r.report().Listeners {
		network, address, _ := strings.Cut(l.Address, "://")
		targets = append(targets, load.Target{Network: network, Address: address})
	}
	run, err := load.Start(r.t.Context(), load.Options{Targets: targets, Clients: 4, Pause: time.Millisecond})
	if err != nil {
		r.t.Fatal(err)
	}
	return func() {
		r.t.Helper()
		if got := run.Stop(); got.Lost > 0 || got.Requests < 20 {
			r.t.Errorf("%v %v", got, got.Examples)
		}
	}
}

// same is what a successor reports like the launcher before it.
func same(t *testing.T, before, after *event.Report) {
	t.Helper()
	if after.Resumed != before.Resumed+1 || after.Restarts != before.Restarts || after.Verdict != before.Verdict ||
		!after.Started.Equal(before.Started) || after.State != before.State || !slices.Equal(after.Listeners, before.Listeners) {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
}

func TestASuccessorGoesOnWithTheSameWorkers(t *testing.T) {
	for name, follow := range map[string]func(*realm){
		"of one that was killed":       func(r *realm) { r.dies("now", nil); r.succeed() },
		"the same process":             func(r *realm) { r.becomes() },
		"the same process, then not":   func(r *realm) { r.becomes(); r.dies("now", nil); r.succeed() },
		"of one that was one's itself": func(r *realm) { r.dies("now", nil); r.succeed(); r.dies("now", nil); r.succeed() },
	} {
		t.Run(name, func(t *testing.T) {
			r := reign(t, func(p *handoff.Plan) {
				several(2, false)(p)
				p.Policy.DrainIdle = 10 * time.Second // the target loses what it reads when it is told to end
			}, "ready=notify")
			pids := r.pids(1, 2)
			before := r.report()
			stop := r.loaded()
			follow(r)
			if now := r.pids(1, 2); !slices.Equal(now, pids) {
				t.Errorf("workers were %v, and are %v", pids, now)
			}
			after := r.report()
			before.Resumed = after.Resumed - 1
			same(t, before, after)
			if after.Resumed == 0 {
				t.Error("it does not know that it is a successor")
			}
			r.swap(2)
			r.wait(event.Gone, 1)
			r.ask(order{Do: "scale", N: 3})
			now := r.pids(2, 3)
			stop()
			if err := syscall.Kill(now[1], syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			r.wait(event.Crashed, 2)
			again := r.pids(2, 3)
			if !slices.Contains(again, now[0]) || slices.Contains(again, now[1]) {
				t.Errorf("after a crash %v, before it %v", again, now)
			}
			r.ask(order{Do: "rollback"})
			if v := r.verdict(); v.Outcome != machine.Swapped {
				t.Errorf("rollback: %+v", v)
			}
			r.stop()
		})
	}
}

// crash ends the worker of generation 1, and returns when that is known.
func (r *realm) crash() {
	r.t.Helper()
	before := len(r.seen(event.Crashed, 1))
	if err := syscall.Kill(r.pids(1, 1)[0], syscall.SIGKILL); err != nil {
		r.t.Fatal(err)
	}
	testkit.Wait(r.t, func() bool { return len(r.seen(event.Crashed, 1)) > before }, "the crash to be seen")
}

// A launcher may be killed in whatever state one of its workers is: the next one brings
// it to the same end.
func TestASuccessorFindsAWorkerInAnyState(t *testing.T) {
	reload := func(r *realm) { r.ask(order{Do: "reload"}) }
	late := filepath.Join(t.TempDir(), "late")
	file := filepath.Join(t.TempDir(), "behaviour")
	var closes func()
	for moment, c := range map[machine.State]struct {
		differ     func(*handoff.Plan) // of the first plan
		behaviours []string
		newcomer   func(*handoff.Plan) // of the second one; nil: the same
		act        func(*realm)        // leads to the state
		after      func(*testing.T, *realm)
	}{
		machine.Coming: {
			newcomer: func(p *handoff.Plan) { p.Ready, p.Command.Exec = health.Notify, testkit.Target("ready=file:"+late) },
			act:      reload,
			after: func(t *testing.T, r *realm) {
				pid := r.state().Workers[1].Process.PID
				if err := os.WriteFile(late, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				if now := r.pids(2, 1); now[0] != pid {
					t.Errorf("worker %d serves, %d had been started", now[0], pid)
				}
				r.wait(event.Gone, 1)
			},
		},
		machine.Probing: {
			newcomer: func(p *handoff.Plan) {
				p.Ready, p.Command.Exec, p.Policy.Probe = health.Notify, testkit.Target("ready=notify", "health=2"), true
				p.Probe = &handoff.Probe{Probe: health.Probe{Kind: health.KindHTTP, Path: "/healthz", Interval: 200 * time.Millisecond, Timeout: 10 * time.Second}}
			},
			act: reload,
			after: func(t *testing.T, r *realm) {
				pid := r.state().Workers[1].Process.PID
				if now := r.pids(2, 1); now[0] != pid {
					t.Errorf("worker %d serves, %d had been started", now[0], pid)
				}
				r.wait(event.Gone, 1)
			},
		},
		machine.Failed: {
			differ: func(p *handoff.Plan) {
				p.Ready, p.Policy.ReadyTimeout = health.Notify, 2*time.Second
				testkit.Behave(t, file, "ready=notify")
			},
			behaviours: []string{"@" + file},
			act: func(r *realm) {
				testkit.Behave(t, file, "ready=never")
				r.crash()
			},
			after: func(t *testing.T, r *realm) {
				testkit.Behave(t, file, "ready=notify")
				r.wait(event.Crashed, 1)
				r.pids(1, 1)
			},
		},
		machine.Waiting: {
			differ: func(p *handoff.Plan) { p.Policy.BackoffMin, p.Policy.BackoffMax = 2*time.Second, 2*time.Second },
			act: func(r *realm) {
				r.crash()
				r.crash() // the first restart is at once
			},
			after: func(t *testing.T, r *realm) {
				due := r.state().Timers[0].Due
				if began := r.wait(event.Started, 1).Time; began.Before(due) {
					t.Errorf("started at %v, which was due at %v", began, due)
				}
				r.pids(1, 1)
			},
		},
		machine.Quieting: {
			differ: func(p *handoff.Plan) { p.Policy.DrainDelay = time.Second },
			act: func(r *realm) {
				closes = r.halfOpen() // on the way, and waited for
				reload(r)
			},
			after: func(t *testing.T, r *realm) {
				closes()
				began := r.due(t, machine.TimerQueue).Add(-r.plan.Policy.DrainTimeout)
				if at := r.wait(event.Signalled, 1).Time; at.Before(began.Add(time.Second)) {
					t.Errorf("signalled at %v, and new connections ended at %v", at, began)
				}
				r.wait(event.Gone, 1)
			},
		},
		"delay": {
			differ: func(p *handoff.Plan) { p.Policy.DrainDelay = time.Second },
			act:    reload,
			after: func(t *testing.T, r *realm) {
				due := r.due(t, machine.TimerDelay)
				if at := r.wait(event.Signalled, 1).Time; at.Before(due) {
					t.Errorf("signalled at %v, which was due at %v", at, due)
				}
				r.wait(event.Gone, 1)
			},
		},
		machine.Signalled: {
			behaviours: []string{"term=slow:1s"},
			act:        reload,
			after: func(t *testing.T, r *realm) {
				r.wait(event.Gone, 1)
				if n := r.seen(event.Signalled, 1); len(n) > 0 {
					t.Errorf("signalled again: %v", n)
				}
				if n := r.seen(event.Killed, 1); len(n) > 0 {
					t.Errorf("killed: %v", n)
				}
			},
		},
		machine.Killed: {
			differ:     func(p *handoff.Plan) { p.Policy.DrainTimeout = 300 * time.Millisecond },
			behaviours: []string{"term=ignore"},
			act:        reload,
			after:      func(_ *testing.T, r *realm) { r.wait(event.Gone, 1) },
		},
	} {
		t.Run(string(moment), func(t *testing.T) {
			differ := c.differ
			if differ == nil {
				differ = func(*handoff.Plan) {}
			}
			r := reign(t, differ, c.behaviours...)
			r.pids(1, 1)
			if c.newcomer != nil {
				r.configure(c.newcomer)
			}
			r.dies(string(moment), func() { c.act(r) })
			r.succeed()
			c.after(t, r)
			r.stop()
		})
	}
}

// halfOpen begins a handshake with who serves, whose answer is dropped. It ends some seconds
// after closes, when the answer is sent again to nobody.
func (r *realm) halfOpen() (closes func()) {
	r.t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	closes = sync.OnceFunc(func() { unix.Close(fd) }) // nothing was said
	r.t.Cleanup(closes)
	drop := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &drop); err != nil {
		r.t.Skipf("no handshake can be kept half open: %v", err) // it needs CAP_NET_ADMIN
	}
	for _, l := range r.report().Listeners {
		port, ok := strings.CutPrefix(l.Address, "tcp://127.0.0.1:")
		if !ok {
			continue
		}
		number, err := strconv.Atoi(port)
		if err != nil {
			r.t.Fatal(err)
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: number, Addr: [4]byte{127, 0, 0, 1}}); !errors.Is(err, unix.EINPROGRESS) {
			r.t.Fatalf("connect: %v", err)
		}
	}
	return closes
}

// due is when the timer of that kind that the last launcher had set is due.
func (r *realm) due(t *testing.T, kind machine.TimerKind) time.Time {
	t.Helper()
	timers := r.state().Timers
	i := slices.IndexFunc(timers, func(s handoff.TimerState) bool { return s.Timer.Kind == kind })
	if i < 0 {
		t.Fatalf("no timer %s among %v", kind, timers)
	}
	return timers[i].Due
}

// A worker whose connections may end by themselves is signalled when they have.
func TestASuccessorWaitsForTheSameConnections(t *testing.T) {
	r := reign(t, func(p *handoff.Plan) { p.Policy.DrainIdle = time.Hour })
	r.pids(1, 1)
	var c net.Conn
	for _, l := range r.report().Listeners {
		if network, address, _ := strings.Cut(l.Address, "://"); network == "tcp" {
			var err error
			if c, err = (&net.Dialer{}).DialContext(t.Context(), network, address); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer c.Close()
	r.dies(string(machine.Idling), func() { r.ask(order{Do: "reload"}) })
	r.succeed()
	r.pids(2, 1)
	if n := r.seen(event.Signalled, 1); len(n) > 0 {
		t.Errorf("signalled with a connection open: %v", n)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	r.wait(event.Gone, 1)
	r.stop()
}

// What was to happen at a time happens then, whoever launches.
func TestABakeEndsWhenItWasDue(t *testing.T) {
	r := reign(t, func(p *handoff.Plan) { p.Policy.Bake = 3 * time.Second })
	r.pids(1, 1)
	r.dies("standby", func() { r.ask(order{Do: "reload"}) })
	due := r.due(t, machine.TimerBake)
	r.succeed()
	if now := r.due(t, machine.TimerBake); !now.Equal(due) {
		t.Errorf("due at %v, and now at %v", due, now)
	}
	if n := r.seen(event.Draining, 1); len(n) > 0 {
		t.Fatalf("over at once: %v", n)
	}
	if at := r.wait(event.Draining, 1).Time; at.Before(due) || at.After(due.Add(2*time.Second)) {
		t.Errorf("the bake was over at %v, which was due at %v", at, due)
	}
	r.wait(event.Gone, 1)
	r.stop()
}

func TestACanaryGoesOn(t *testing.T) {
	r := reign(t, func(p *handoff.Plan) {
		p.Policy.Canary = []machine.Step{{Weight: 10, For: 2 * time.Second}, {Weight: 50}}
	})
	r.pids(1, 1)
	r.dies("canary", func() { r.ask(order{Do: "reload"}) })
	r.succeed()
	step := func() *event.CanaryStep {
		for _, g := range r.report().Generations {
			if g.Canary != nil {
				return g.Canary
			}
		}
		return &event.CanaryStep{}
	}
	if s := step(); s.Weight != 10 {
		t.Errorf("at first %+v", s)
	}
	testkit.Wait(t, func() bool { return step().Weight == 50 }, "the next step")
	r.dies("now", nil)
	r.succeed()
	if s := step(); s.Weight != 50 {
		t.Errorf("with the next launcher %+v", s)
	}
	r.ask(order{Do: "promote"})
	r.wait(event.Serving, 2)
	r.wait(event.Gone, 1)
	if v := r.report().Verdict; v != string(machine.Swapped) {
		t.Errorf("the verdict is %q", v)
	}
	r.stop()
}

// A child that a worker left holds the socket: the slot is nobody's before it has let go.
func TestASuccessorFreesAnOrphansSlot(t *testing.T) {
	r := reign(t, func(p *handoff.Plan) { p.Policy.DrainTimeout = 5 * time.Second }, "child=sockets,session", "term=die")
	r.pids(1, 1)
	r.configure(func(p *handoff.Plan) { p.Command.Exec = testkit.Target() })
	r.dies("orphan", func() { r.ask(order{Do: "reload"}) })
	r.succeed()
	r.wait(event.Gone, 1)
	testkit.Wait(t, func() bool { return len(r.processes()) == 1 }, "the child to be gone")
	r.stop()
}

func TestAWorkerThatEndedBetweenTwoLaunchersIsStartedAgain(t *testing.T) {
	r := reign(t, several(2, false), "ready=notify")
	pids := r.pids(1, 2)
	r.dies("now", nil)
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.succeed()
	r.wait(event.Crashed, 1)
	testkit.Wait(t, func() bool { return r.report().Restarts == 1 }, "the restart")
	if now := r.pids(1, 2); slices.Contains(now, pids[0]) || !slices.Contains(now, pids[1]) {
		t.Errorf("workers were %v, and are %v", pids, now)
	}
	r.stop()
}

// Of a process that was being made nobody knows whether it came to be.
func TestAWorkerThatWasBeingStartedIsGivenUp(t *testing.T) {
	r := reign(t, func(*handoff.Plan) {})
	pid := r.pids(1, 1)[0]
	r.dies("executing", func() { r.ask(order{Do: "reload"}) })
	for _, p := range r.processes() { // the launcher's list of workers is for these
		if p != pid {
			_ = syscall.Kill(p, syscall.SIGKILL) // it may have ended
		}
	}
	r.succeed()
	if e := r.wait(event.RolledBack, 2); !strings.Contains(e.Reason, "the launcher ended while it was being started") {
		t.Errorf("%+v", e)
	}
	r.wait(event.Gone, 2)
	if now := r.pids(1, 1); now[0] != pid {
		t.Errorf("worker %d serves, and was %d", now[0], pid)
	}
	r.swap(3)
	r.stop()
}

func TestAReleaseThatWasBeingResolvedIsResolvedAgain(t *testing.T) {
	r := reign(t, func(*handoff.Plan) {})
	r.pids(1, 1)
	r.ask(order{Do: "hang"})
	r.dies("preparing", func() { r.ask(order{Do: "reload"}) })
	r.succeed()
	r.wait(event.Serving, 2)
	r.wait(event.Gone, 1)
	r.stop()
}

// A number that an operator asked for, and one who ended to stay, are remembered.
func TestWhatAnOperatorAskedForHoldsUnderASuccessor(t *testing.T) {
	r := reign(t, func(p *handoff.Plan) { p.Policy.Bake = time.Hour; p.StayCodes = []int{0} }, "ready=notify")
	r.pids(1, 1)
	r.ask(order{Do: "scale", N: 2})
	r.pids(1, 2)
	r.dies("now", nil)
	r.succeed()
	r.swap(2)
	r.pids(2, 2)
	r.ask(order{Do: "scale", N: 3})
	r.pids(2, 3)
	r.becomes()
	r.ask(order{Do: "rollback"})
	if v := r.verdict(); v.Outcome != machine.Swapped {
		t.Fatalf("%+v", v)
	}
	r.wait(event.Gone, 2)
	stays := r.pids(1, 3)[2]                                     // one of its own: how another's child ended may not be known
	if err := syscall.Kill(stays, syscall.SIGTERM); err != nil { // it ends with 0
		t.Fatal(err)
	}
	r.wait(event.LeftStopped, 1)
	r.dies("now", nil)
	r.succeed()
	if now := r.pids(1, 2); slices.Contains(now, stays) {
		t.Errorf("workers %v", now)
	}
	if g := r.report().Shown(); len(g.Stopped) != 1 || g.Wanted != 3 {
		t.Errorf("%+v", g)
	}
	r.stop()
}

package process

import (
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestSignalsReachAGrandchild(t *testing.T) {
	p := start(t, resolve(t, target(t, "parent", "stay")))
	grandchild := p.number(t)
	p.line(t)
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if s := p.ended(t); s.Signal != syscall.SIGTERM {
		t.Error(s)
	}
	eventually(t, "the grandchild ended too", func() bool {
		s, ok, _ := readStat(grandchild)
		return !ok || s.dead()
	})
}

func TestASignalAfterTheExitReachesWhoIsLeftOfTheGroup(t *testing.T) {
	for _, kernel := range []string{"with a pidfd", "without"} {
		t.Run(kernel, func(t *testing.T) {
			p := start(t, resolve(t, target(t, "parent", "leave")))
			if kernel == "without" {
				p.fd.close()
			}
			grandchild := p.number(t)
			p.line(t)
			p.ended(t)
			if !p.Group() {
				t.Fatal("the grandchild is left, the group is said to be empty")
			}
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the grandchild is gone", func() bool {
				s, ok, _ := readStat(grandchild)
				return !ok || s.dead()
			})
			eventually(t, "the group is gone", func() bool { return !p.Group() })
			if err := p.Signal(syscall.SIGTERM); err != nil {
				t.Errorf("signalling nobody: %v", err)
			}
		})
	}
}

// A number that was given again is not signalled: the test makes a "stranger" by
// telling a Process that its main process was reaped, while that still runs.
func TestAReusedNumberIsNeverSignalled(t *testing.T) {
	stranger := start(t, resolve(t, target(t, "wait")))
	stranger.line(t)
	old := &Process{pid: stranger.PID(), fd: &pidFD{}, done: make(chan struct{}), reaped: true}
	old.fd.n.Store(-1)
	if err := old.Kill(); err != nil {
		t.Error(err)
	}
	if old.Group() || old.Contains(stranger.PID()) || old.PIDs() != nil {
		t.Error("the stranger is taken for the worker")
	}
	if !old.gone {
		t.Error("the group was not seen to be gone")
	}
	stranger.in.Close()
	if s := stranger.ended(t); s.String() != "exit status 0" {
		t.Errorf("the stranger got the signal: %v", s)
	}
}

func TestMembersAreTheGroupAndDescendants(t *testing.T) {
	for _, session := range []string{"same-group", "own-group"} {
		t.Run(session, func(t *testing.T) {
			p := start(t, resolve(t, target(t, "parent", "stay", session)))
			grandchild := p.number(t)
			p.line(t)
			pids := p.PIDs()
			if len(pids) != 2 || pids[0] != p.PID() || pids[1] != grandchild {
				t.Errorf("pids %v, want %d, %d", pids, p.PID(), grandchild)
			}
			if !p.Contains(p.PID()) || !p.Contains(grandchild) {
				t.Error("its own processes are not recognised")
			}
			for _, stranger := range []int{0, 1, -1, os.Getpid(), os.Getppid(), 1 << 30} {
				if p.Contains(stranger) {
					t.Errorf("%d is taken for one of its processes", stranger)
				}
			}
			p.in.Close()
			p.ended(t)
			if pids := p.PIDs(); len(pids) != 0 {
				eventually(t, "nobody is left", func() bool { return len(p.PIDs()) == 0 })
			}
		})
	}
}

// zombie finds the dead child of pid.
func zombie(t *testing.T, parent int) (pid int) {
	t.Helper()
	eventually(t, "a child is dead and not reaped", func() bool {
		for _, s := range processes(t) {
			if s.parent == parent && s.dead() {
				pid = s.pid
			}
		}
		return pid != 0
	})
	return pid
}

func TestAZombieIsNoProcessThatRuns(t *testing.T) {
	// Orphans come to this process, which does not reap them: as to a launcher that
	// is PID 1 and has not got round to it.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	p := start(t, resolve(t, Command{Exec: []string{"sh", "-c", "sleep 0 & exec cat"}}))
	dead := zombie(t, p.PID())
	if pids := p.PIDs(); !slices.Equal(pids, []int{p.PID()}) {
		t.Errorf("pids %v, want %d alone", pids, p.PID())
	}
	if !p.Contains(dead) {
		t.Error("a message from a process that just ended would be lost")
	}
	p.in.Close()
	p.ended(t)
	if s, ok, _ := readStat(dead); !ok || !s.dead() {
		t.Fatalf("the zombie is gone: this shows nothing (%+v)", s)
	}
	if p.Group() {
		t.Error("a zombie is taken for a process that remains")
	}
	if _, err := unix.Wait4(dead, nil, 0, nil); err != nil {
		t.Error(err)
	}
}

func TestAnotherWorkersProcessesAreNotOnesOwn(t *testing.T) {
	r := resolve(t, target(t, "wait"))
	a, b := start(t, r), start(t, r)
	a.line(t)
	b.line(t)
	if a.Contains(b.PID()) || slices.Contains(a.PIDs(), b.PID()) {
		t.Error("a worker contains its sibling")
	}
}

func processes(t *testing.T) map[int]stat {
	t.Helper()
	all, err := scanProcesses()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := numbers("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

func holds(t *testing.T, p talk, inode uint64) bool {
	t.Helper()
	held, err := p.Holds(inode)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

func TestHoldsFindsASocketInAnyOfItsProcesses(t *testing.T) {
	mine, inode := socket(t)
	_, other := socket(t)
	p := start(t, resolve(t, target(t, "parent", "stay")), func(s *Spec) { s.Files = []int{mine} })
	grandchild := p.number(t)
	p.line(t)
	for _, way := range []string{"searched for", "remembered"} {
		if !holds(t, p, inode) {
			t.Errorf("the socket at descriptor 3 is not found when %s", way)
		}
	}
	if all, err := p.Inodes(); err != nil || !all[inode] || all[other] {
		t.Errorf("all are %v, %v: want %d, and not the launcher's %d", all, err, inode, other)
	}
	if holds(t, p, other) {
		t.Error("a socket that only the launcher has is found")
	}
	if at := p.seen.at[inode]; at.fd != 3 || at.pid != p.PID() && at.pid != grandchild {
		t.Errorf("seen at %+v, want descriptor 3 of %d or %d", at, p.PID(), grandchild)
	}
	p.in.Close()
	p.ended(t)
	eventually(t, "nobody is left", func() bool { return len(p.PIDs()) == 0 })
	if holds(t, p, inode) {
		t.Error("the socket is still said to be held after the worker's end")
	}
}

// Between the moment in which a killed process lets go of its descriptors and the one
// in which its end is told, it is known to be ending.
func TestAProcessThatLetsGoOfASocketAsItEndsIsEnding(t *testing.T) {
	r := resolve(t, target(t, "wait"))
	before := 0
	for range 50 {
		mine, inode := socket(t)
		p := start(t, r, func(s *Spec) { s.Files = []int{mine} })
		p.line(t)
		if !holds(t, p, inode) || p.Ending() {
			t.Fatal("a process that runs is said to be ending, or not to hold its socket")
		}
		if err := unix.Kill(p.PID(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for holds(t, p, inode) {
			runtime.Gosched()
		}
		select {
		case <-p.Done():
		default:
			before++
		}
		if !p.Ending() {
			t.Error("it holds its socket no more and is not said to be ending")
		}
		p.ended(t)
	}
	t.Logf("%d of 50 were seen before their end was told", before)
}

// Holds must notice when a descriptor it remembers is another socket by now.
func TestHoldsDoesNotTrustItsMemory(t *testing.T) {
	mine, inode := socket(t)
	_, other := socket(t)
	p := start(t, resolve(t, target(t, "wait")), func(s *Spec) { s.Files = []int{mine} })
	p.line(t)
	p.seen.at = map[uint64]place{other: {p.PID(), 3}, inode: {p.PID(), 0}}
	if holds(t, p, other) {
		t.Error("a stale place was believed")
	}
	if !holds(t, p, inode) {
		t.Error("a stale place hid the socket")
	}
}

func TestAStatLineIsReadBehindTheName(t *testing.T) {
	for line, want := range map[string]stat{
		"12 (sh) S 3 4 5 0 -1":             {pid: 12, parent: 3, group: 4, state: 'S'},
		"12 (a) R 9 9 9 (b)) Z 3 4 5 0 -1": {pid: 12, parent: 3, group: 4, state: 'Z'},
		"12 () x 3 4 5":                    {pid: 12, parent: 3, group: 4, state: 'x'},
	} {
		if got, ok := parseStat([]byte(line)); !ok || got != want {
			t.Errorf("%q: %+v %v, want %+v", line, got, ok, want)
		}
	}
	for _, line := range []string{"", "12", "12 (sh", "12 sh) S 3 4", ")(", "12 (sh) S 3", "x (sh) S 3 4", "12 (sh) S x 4", "(sh) S 1 2 3"} {
		if got, ok := parseStat([]byte(line)); ok {
			t.Errorf("%q: read as %+v", line, got)
		}
	}
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("12 (sh) S 3 4 5 0 -1"))
	f.Fuzz(func(t *testing.T, b []byte) { parseStat(b) })
}

func TestStartsLeaveNothingBehind(t *testing.T) {
	good := resolve(t, Command{Exec: []string{"/bin/true"}, Dir: "/"})
	bad := resolve(t, Command{Exec: []string{write(t, t.TempDir()+"/bad", "", 0o755)}})
	once := func(r *Release) {
		p, err := Start(t.Context(), Spec{Release: r, Env: r.Env(), Stdin: -1, Stdout: -1, Stderr: -1})
		if (err != nil) != (r == bad) {
			t.Fatal(err)
		}
		if p != nil {
			<-p.Done()
		}
	}
	once(good)
	once(bad)
	leak := goleak.IgnoreCurrent()
	before := descriptors(t)
	starts := 500
	if testing.Short() {
		starts = 100
	}
	for i := range starts {
		if once(good); i%5 == 0 {
			once(bad)
		}
	}
	// Fewer is no leak: workers of other tests may be forgotten meanwhile.
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, were %d", after, before)
	}
	goleak.VerifyNone(t, leak)
	for pid, s := range processes(t) {
		if s.parent == os.Getpid() {
			t.Errorf("child %d is left in state %c", pid, s.state)
		}
	}
}

// An orphan keeps the group, and so the pidfd; when nobody asks for the worker any
// more, the descriptor goes with it.
func TestAForgottenProcessGivesItsDescriptorBack(t *testing.T) {
	before := descriptors(t)
	var pid int
	func() {
		r, w, _ := os.Pipe()
		defer r.Close()
		rel := resolve(t, Command{Exec: []string{"sh", "-c", "sleep 1000 & echo $!"}})
		p, err := Start(t.Context(), Spec{Release: rel, Env: rel.Env(), Stdin: -1, Stdout: int(w.Fd()), Stderr: -1})
		w.Close()
		if err != nil {
			t.Fatal(err)
		}
		pid = talk{Process: p, out: r}.number(t)
		<-p.Done()
		rel.Close()
		if p.fd.n.Load() < 0 {
			t.Error("the pidfd is closed while the group lives: it could not be signalled safely")
		}
	}()
	defer unix.Kill(pid, unix.SIGKILL)
	eventually(t, "the descriptor is closed", func() bool {
		runtime.GC()
		return descriptors(t) == before
	})
}

func lockedMask(t *testing.T, sigs ...syscall.Signal) (restore func()) {
	t.Helper()
	runtime.LockOSThread()
	var set, old unix.Sigset_t
	for _, s := range sigs {
		set.Val[(s-1)/64] |= 1 << ((s - 1) % 64)
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old); err != nil {
		t.Fatal(err)
	}
	return func() {
		unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
		runtime.UnlockOSThread()
	}
}

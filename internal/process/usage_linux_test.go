package process

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const megabyte = 1 << 20

func init() {
	// Says that it is up; touches args[0] MB when told to, says so; ends with stdin.
	targets["touch"] = func(args []string) {
		megabytes, _ := strconv.Atoi(args[0])
		awaitLine("up")
		b, err := unix.Mmap(-1, 0, megabytes*megabyte, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
		exit(err)
		awaitLine("touched")
		runtime.KeepAlive(b)
	}
	// Starts args[0] children that share memory with it, "sharer"s, and is one itself.
	targets["share"] = func(args []string) {
		children, _ := strconv.Atoi(args[0])
		fd, err := unix.MemfdCreate("shared", 0)
		exit(err)
		exit(unix.Ftruncate(fd, 50*megabyte))
		awaitLine("up")
		for range children {
			c := exec.Command("/proc/self/exe")
			c.Env = append(os.Environ(), behaviour+"=sharer")
			c.Stdin, c.Stdout, c.Stderr = nil, os.Stdout, os.Stderr
			in, err := c.StdinPipe() // held: it ends when this process does
			exit(err)
			c.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "shared")}
			exit(c.Start())
			runtime.KeepAlive(in)
		}
		sharedMemory(fd)
		fmt.Println("sharing")
		io.Copy(io.Discard, os.Stdin)
	}
	targets["sharer"] = func([]string) {
		sharedMemory(3)
		fmt.Println("sharing")
		io.Copy(io.Discard, os.Stdin)
	}
	// Uses CPU until it is told to stop, says so, and ends with stdin.
	targets["spin"] = func([]string) {
		fmt.Println("up")
		told := make(chan struct{})
		go func() { awaitLine(""); close(told) }()
		spin(func() bool {
			select {
			case <-told:
				return false
			default:
				return true
			}
		})
		awaitLine("spun")
	}
	// Has a child use 300 ms of CPU, waits for it, says so.
	targets["spinning-child"] = func([]string) {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), behaviour+"=spin-for-a-while")
		exit(c.Run())
		awaitLine("reaped")
	}
	targets["spin-for-a-while"] = func([]string) {
		spin(func() bool { return ownCPU() < 300*time.Millisecond })
	}
}

// awaitLine says what, and returns when a line or the end of stdin comes.
func awaitLine(what string) {
	if what != "" {
		fmt.Println(what)
	}
	for b := make([]byte, 1); b[0] != '\n'; {
		if _, err := os.Stdin.Read(b); err != nil {
			syscall.Exit(0)
		}
	}
}

func sharedMemory(fd int) {
	_, err := unix.Mmap(fd, 0, 50*megabyte, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	exit(err)
}

func spin(on func() bool) {
	for on() {
		for i := range 100_000 {
			_ = strconv.Itoa(i)
		}
	}
}

func ownCPU() time.Duration {
	var ru unix.Rusage
	exit(unix.Getrusage(unix.RUSAGE_SELF, &ru))
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

func (k talk) tell(t testing.TB) {
	t.Helper()
	if _, err := k.in.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
}

func usage(t testing.TB, p talk, pssAbove uint64) Usage {
	t.Helper()
	u, err := p.Usage(pssAbove)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// about tells whether what has grown by so many MB, as far as a process of Go's
// own doing, and the kernel's estimate, let one say.
func about(t *testing.T, what string, before, after uint64, want int) {
	t.Helper()
	grown := (float64(after) - float64(before)) / megabyte
	if math.Abs(grown-float64(want)) > 6 {
		t.Errorf("%s has grown by %.1f MB, want %d", what, grown, want)
	}
}

func TestMemoryThatIsTouchedIsResident(t *testing.T) {
	p := start(t, resolve(t, target(t, "touch", "50")))
	p.line(t)
	before := usage(t, p, 0)
	p.tell(t)
	p.line(t)
	after := usage(t, p, 0)
	about(t, "resident", before.Resident, after.Resident, 50)
	about(t, "proportional", before.Proportional, after.Proportional, 50)
	if !after.Exact || after.Processes != 1 || after.Threads < 2 || after.Proportional > after.Resident {
		t.Errorf("%+v", after)
	}
	eventually(t, "as many threads as /proc lists", func() bool { // Go's runtime may start one
		tasks, err := numbers("/proc/" + strconv.Itoa(p.PID()) + "/task")
		return err == nil && len(tasks) == usage(t, p, 0).Threads
	})
}

func TestWhatChildrenShareCountsOnceInTheProportionalSize(t *testing.T) {
	p := start(t, resolve(t, target(t, "share", "4")))
	p.line(t)
	// Children that share nothing, and nothing touched: what they are by themselves.
	alone := usage(t, p, 0)
	p.tell(t)
	for range 5 {
		p.line(t)
	}
	u := usage(t, p, 0)
	if u.Processes != 5 {
		t.Fatalf("%d processes, want 5", u.Processes)
	}
	// Each has the 50 MB in its resident size, and is at least what the first was.
	if u.Resident < 5*50*megabyte {
		t.Errorf("resident %d MB, want 250 at least", u.Resident/megabyte)
	}
	own := u.Proportional - 50*megabyte
	if u.Proportional < 50*megabyte || own > 5*alone.Resident {
		t.Errorf("proportional %d MB, want the 50 once, and at most %d for five programs", u.Proportional/megabyte, 5*alone.Resident/megabyte)
	}
	var sum uint64
	for _, pid := range p.PIDs() {
		b := make([]byte, 2048)
		pss, ok, err := readProportional(pid, b)
		if !ok || err != nil {
			t.Fatal(err)
		}
		sum += pss
	}
	about(t, "the sum of smaps_rollup", u.Proportional, sum, 0)
}

func TestTheProportionalSizeIsMeasuredOnlyAboveTheThreshold(t *testing.T) {
	p := start(t, resolve(t, target(t, "wait")))
	p.line(t)
	u := usage(t, p, 0)
	if !u.Exact || u.Proportional == 0 || u.Proportional >= u.Resident {
		t.Errorf("measured: %+v: the test binary is shared with this process, so it is less", u)
	}
	for _, above := range []uint64{u.Resident + 100*megabyte, math.MaxUint64} {
		if u := usage(t, p, above); u.Exact || u.Proportional != u.Resident || u.Resident == 0 {
			t.Errorf("above %d: %+v", above, u)
		}
	}
}

func TestTheCPUTimeOfASpinnerIsSeen(t *testing.T) {
	begin := time.Now()
	p := start(t, resolve(t, target(t, "spin")))
	p.line(t)
	before := usage(t, p, math.MaxUint64)
	eventually(t, "300 ms of CPU were used", func() bool {
		return usage(t, p, math.MaxUint64).CPU >= before.CPU+300*time.Millisecond
	})
	p.tell(t)
	p.line(t)
	u := usage(t, p, math.MaxUint64)
	if most := time.Duration(runtime.NumCPU()) * time.Since(begin); u.CPU > most {
		t.Errorf("%v of CPU in %v", u.CPU, most)
	}
	p.in.Close()
	s := p.ended(t)
	if total := s.UserTime + s.SystemTime; u.CPU > total+2*tick || u.CPU < total/2 {
		t.Errorf("%v before the end, the kernel counted %v at the end", u.CPU, total)
	}
}

func TestTheCPUTimeOfAChildThatHasEndedStays(t *testing.T) {
	p := start(t, resolve(t, target(t, "spinning-child")))
	var last time.Duration
	seen := 0
	eventually(t, "the child was seen at work, and its end", func() bool {
		u := usage(t, p, math.MaxUint64)
		if u.CPU < last {
			t.Fatalf("CPU fell from %v to %v", last, u.CPU)
		}
		last, seen = u.CPU, max(seen, u.Processes)
		return seen == 2 && u.Processes == 1
	})
	p.line(t)
	if u := usage(t, p, math.MaxUint64); u.CPU < 300*time.Millisecond-4*tick || u.CPU > 3*time.Second || u.Processes != 1 {
		t.Errorf("%+v, want the 300 ms of the child, once", u)
	}
}

func TestAWorkerThatHasEndedUsesNothingMore(t *testing.T) {
	p := start(t, resolve(t, target(t, "spinning-child")))
	p.line(t)
	before := usage(t, p, 0)
	p.in.Close()
	p.ended(t)
	if u := usage(t, p, 0); u != (Usage{CPU: before.CPU}) {
		t.Errorf("%+v, want %v of CPU and no more", u, before.CPU)
	}
}

func TestWhoIsLeftOfAGroupStillCounts(t *testing.T) {
	p := start(t, resolve(t, target(t, "parent", "leave")))
	p.number(t)
	p.line(t)
	p.ended(t)
	if u := usage(t, p, 0); u.Processes != 1 || u.Resident == 0 || !u.Exact {
		t.Errorf("%+v, want the grandchild", u)
	}
}

// Processes come and go all the time: no look may fail for it.
func TestProcessesThatEndInBetweenAreNoError(t *testing.T) {
	p := start(t, resolve(t, Command{Exec: []string{"sh", "-c", "while :; do sleep 0.05 & /bin/true & /bin/true; wait; done"}}))
	seen := 0
	begin := time.Now()
	for looks := 0; looks < 300 || seen < 2 && time.Since(begin) < 10*time.Second; looks++ {
		seen = max(seen, usage(t, p, 0).Processes)
	}
	if seen < 2 {
		t.Error("no child was ever seen: this shows nothing")
	}
	// And those that were listed a moment ago.
	gone := start(t, resolve(t, target(t, "exit", "0")))
	gone.ended(t)
	u, err := measure([]stat{{pid: gone.PID(), state: 'S'}}, 0)
	if err != nil || u.Resident != 0 || u.Processes != 0 {
		t.Errorf("%+v, %v", u, err)
	}
	if pss, ok, err := readProportional(gone.PID(), make([]byte, 2048)); pss != 0 || !ok || err != nil {
		t.Errorf("the proportional size of nobody: %d, %v, %v", pss, ok, err)
	}
}

func TestWhereTheProportionalSizeMayNotBeReadTheResidentOneCounts(t *testing.T) {
	asRoot(t)
	c := target(t, "wait")
	c.User = "nobody"
	p := start(t, resolve(t, c))
	p.line(t)
	withoutPower(t, func() {
		u, err := p.Usage(0)
		want := fmt.Sprintf("proportional size of process %d: open /proc/%[1]d/smaps_rollup: permission denied; its resident size counts instead", p.PID())
		if !errors.Is(err, syscall.EACCES) || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
		if u.Exact || u.Resident == 0 || u.Proportional != u.Resident || u.Processes != 1 {
			t.Errorf("%+v", u)
		}
		if u, err := p.Usage(math.MaxUint64); err != nil || u.Resident == 0 {
			t.Errorf("what takes no power: %+v, %v", u, err)
		}
	})
	if u := usage(t, p, 0); !u.Exact {
		t.Errorf("with the power: %+v", u)
	}
}

func TestUsageSaysWhenItCannotLook(t *testing.T) {
	p := start(t, resolve(t, target(t, "wait")))
	p.line(t)
	withoutDescriptors(t, func() {
		if u, err := p.Usage(0); !errors.Is(err, syscall.EMFILE) || u.Processes != 0 {
			t.Errorf("%+v, %v", u, err)
		}
	})
}

func TestManyWorkersAreLookedAtTogether(t *testing.T) {
	r := resolve(t, target(t, "parent", "stay"))
	a, b := start(t, r), start(t, r)
	ended := start(t, resolve(t, target(t, "exit", "0")))
	ended.ended(t)
	for _, p := range []talk{a, b} {
		p.number(t)
		p.line(t)
	}
	all, errs := Usages([]*Process{a.Process, ended.Process, b.Process}, math.MaxUint64)
	for i, want := range []int{2, 0, 2} {
		if all[i].Processes != want || errs[i] != nil {
			t.Errorf("worker %d: %+v, %v; want %d processes", i, all[i], errs[i], want)
		}
	}
	members, _ := membersOf([]*Process{a.Process, b.Process})
	if members[0][0].pid != a.PID() || members[1][0].pid != b.PID() || members[0][1].parent != a.PID() {
		t.Errorf("not the main process first, and its own child: %+v", members)
	}
	if all, errs := Usages(nil, 0); len(all) != 0 || len(errs) != 0 {
		t.Error("nobody was asked for")
	}
}

// Who is not the parent sees the same.
func TestTheUsageOfSomebodyElsesProcesses(t *testing.T) {
	p := start(t, resolve(t, target(t, "parent", "stay")))
	p.number(t)
	p.line(t)
	own := usage(t, p, math.MaxUint64)
	all := UsagesOf([]int{p.PID(), 1<<22 + 1})
	if got := all[0]; got.Processes != 2 || own.Processes != 2 || got.Resident < own.Resident/2 || got.Proportional != got.Resident || all[1].Processes != 0 {
		t.Errorf("%+v, want %+v and nothing", all, own)
	}
	if len(UsagesOf(nil)) != 0 {
		t.Error("nobody was asked for")
	}
}

// A parent is read before its child, in whatever order they are listed and numbered.
func TestParentsAreListedBeforeTheirChildren(t *testing.T) {
	c := census{main: map[int]int{50: 0}, group: map[int]int{50: 0, 90: 1}, seen: map[int]seat{}, all: map[int]stat{
		1: {pid: 1}, 50: {pid: 50, parent: 1, group: 50},
		40: {pid: 40, parent: 50, group: 50}, 30: {pid: 30, parent: 40, group: 30}, 20: {pid: 20, parent: 30, group: 50},
		90: {pid: 90, parent: 1, group: 90}, 91: {pid: 91, parent: 50, group: 90},
		7: {pid: 7, parent: 8}, 8: {pid: 8, parent: 7}, // a ring
	}}
	for pid, want := range map[int]seat{
		50: {true, 0, 0}, 40: {true, 0, 1}, 30: {true, 0, 2}, 20: {true, 0, 3},
		91: {true, 1, 0}, 1: {}, 7: {}, 8: {}, 12345: {},
	} {
		if got := c.seat(pid, 0); got != want {
			t.Errorf("%d: %+v, want %+v", pid, got, want)
		}
	}
}

func BenchmarkUsages(b *testing.B) {
	r := resolve(b, Command{Exec: []string{"/bin/cat"}})
	workers := make([]*Process, 64)
	for i := range workers {
		workers[i] = start(b, r).Process
	}
	all, err := scanProcesses()
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		pssAbove uint64
	}{{"resident", math.MaxUint64}, {"proportional", 0}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if u, errs := Usages(workers, c.pssAbove); u[63].Processes != 1 || slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
					b.Fatal(errs)
				}
			}
			b.ReportMetric(float64(len(all)), "processes")
		})
	}
}

func BenchmarkUsageOfAGigabyte(b *testing.B) {
	p := start(b, resolve(b, target(b, "touch", "1000")))
	p.line(b)
	p.tell(b)
	p.line(b)
	for b.Loop() {
		if u := usage(b, p, 0); !u.Exact || u.Proportional < 1000*megabyte {
			b.Fatalf("%+v", u)
		}
	}
}

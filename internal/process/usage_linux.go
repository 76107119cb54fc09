package process

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Usage looks at what the worker uses now. Its proportional size is measured only
// when its resident size is above pssAbove: the kernel has to walk all of the memory
// for it (some 16 ms a GB, for which the worker's own mmap(2) has to wait), and as
// long as the resident size is below a limit the proportional size is as well.
//
// An error says what could not be seen; the figures are then of what could.
// The proportional size takes the right to trace a process (ptrace(2): the same user
// and dumpable, or CAP_SYS_PTRACE): where that is missing, its resident size counts,
// and the error says so. A process that ends meanwhile is none; of a
// worker that has ended nothing is left but CPU.
//
// The resident size is the kernel's own estimate: before Linux 6.16, and since 6.2,
// each CPU may hold back up to 32 pages, or two for each CPU there is.
//
// For many workers use Usages.
func (p *Process) Usage(pssAbove uint64) (Usage, error) {
	u, errs := Usages([]*Process{p}, pssAbove)
	return u[0], errs[0]
}

// Usages is Usage of several workers, in their order, and costs one look at the
// processes of the machine for all of them together: 3 ms for 64 workers of one process
// each, among 150.
func Usages(workers []*Process, pssAbove uint64) ([]Usage, []error) {
	usages, errs := make([]Usage, len(workers)), make([]error, len(workers))
	members, unseen := membersOf(workers)
	for i, p := range workers {
		var err error
		usages[i], err = measure(members[i], pssAbove)
		usages[i].CPU = p.spend(usages[i].CPU)
		errs[i] = errors.Join(unseen[i], err)
	}
	return usages, errs
}

// UsagesOf is what processes that another one started use, each the leader of a group,
// by their pids, of memory by resident size. It is for a quick look at many: a child of
// theirs counts unless it is in a session of its own, for which every process of the
// machine would have to be read, and not only asked for its numbers. What cannot be seen
// is left out.
func UsagesOf(pids []int) []Usage {
	usages := make([]Usage, len(pids))
	c := census{main: map[int]int{}, group: map[int]int{}, seen: map[int]seat{}, all: map[int]stat{}}
	sessions := map[int]bool{}
	for i, pid := range pids {
		c.main[pid], c.group[pid] = i, i
		if session, err := unix.Getsid(pid); err == nil {
			sessions[session] = true
		}
	}
	if len(sessions) == 0 {
		return usages
	}
	all, _ := numbers("/proc")
	var buf [1024]byte
	for _, pid := range all {
		if session, err := unix.Getsid(pid); err != nil || !sessions[session] {
			continue
		}
		if s, ok, _ := readStatBy(pid, buf[:]); ok {
			c.all[pid] = s
		}
	}
	members := make([][]stat, len(pids))
	for pid := range c.all {
		if at := c.seat(pid, 0); at.taken {
			members[at.worker] = append(members[at.worker], c.all[pid])
		}
	}
	for i := range members {
		slices.SortFunc(members[i], func(a, b stat) int { return c.seen[a.pid].below - c.seen[b.pid].below })
		usages[i], _ = measure(members[i], math.MaxUint64) // documented
	}
	return usages
}

// spend keeps the CPU time from falling.
func (p *Process) spend(now time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spent = max(p.spent, now)
	return p.spent
}

// measure adds up. The members come parents first: what a child used goes over to
// the parent that waits for it, and a child that ends in between is missed this
// time, but never counted twice.
func measure(members []stat, pssAbove uint64) (u Usage, err error) {
	type part struct {
		pid      int
		resident uint64
	}
	var (
		buf   [2048]byte
		parts []part
		errs  []error
	)
	for _, m := range members {
		cpu, threads, ok, err := readTimes(m.pid, buf[:])
		errs = append(errs, err)
		u.CPU += cpu
		if !ok || m.dead() {
			continue
		}
		resident, ok, err := readResident(m.pid, buf[:])
		errs = append(errs, err)
		if !ok {
			continue
		}
		u.Processes++
		u.Threads += threads
		u.Resident += resident
		parts = append(parts, part{m.pid, resident})
	}
	if u.Proportional = u.Resident; u.Resident <= pssAbove {
		return u, errors.Join(errs...)
	}
	u.Proportional, u.Exact = 0, true
	for _, part := range parts {
		pss, ok, err := readProportional(part.pid, buf[:])
		if err != nil {
			u.Exact = false
			errs = append(errs, fmt.Errorf("proportional size of process %d: %w; its resident size counts instead", part.pid, err))
		}
		if !ok {
			pss = part.resident
		}
		u.Proportional += pss
	}
	return u, errors.Join(errs...)
}

// Errors of what /proc says, where it is not what proc(5) says it is.
var errGarbled = errors.New("not as in proc(5)")

// tick is the unit of CPU times in /proc: USER_HZ is 100 on whatever Go runs on.
const tick = time.Second / 100

// readTimes reads what a process and the children that it waited for have used.
// false: it has ended.
func readTimes(pid int, buf []byte) (cpu time.Duration, threads int, ok bool, err error) {
	b, err := slurp(pid, "stat", buf)
	if err != nil {
		if ended(err) {
			err = nil
		}
		return 0, 0, false, err
	}
	// From the third field on (parseStat): utime, stime, cutime, cstime are the 14th
	// and following, num_threads is the 20th.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 18 {
		return 0, 0, false, fmt.Errorf("stat of process %d: %w", pid, errGarbled)
	}
	for _, field := range f[11:15] {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, 0, false, fmt.Errorf("stat of process %d: %w", pid, errGarbled)
		}
		cpu += time.Duration(n) * tick
	}
	threads, err = strconv.Atoi(string(f[17]))
	return cpu, threads, err == nil, err
}

// readResident reads statm and not stat, whose figure is the coarser one since
// Linux 6.16. false: the process has ended.
func readResident(pid int, buf []byte) (bytesUsed uint64, ok bool, err error) {
	b, err := slurp(pid, "statm", buf)
	if err != nil {
		if ended(err) {
			err = nil
		}
		return 0, false, err
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0, false, fmt.Errorf("statm of process %d: %w", pid, errGarbled)
	}
	pages, err := strconv.ParseUint(string(f[1]), 10, 64)
	return pages * uint64(os.Getpagesize()), err == nil, err
}

// readProportional reads smaps_rollup. A process that has ended has nothing, which
// is known: false comes with an error.
func readProportional(pid int, buf []byte) (pss uint64, ok bool, err error) {
	b, err := slurp(pid, "smaps_rollup", buf)
	if errors.Is(err, syscall.ESRCH) {
		return 0, true, nil // it is ending, and has let go of its memory: /proc still shows it
	}
	if err != nil {
		// Also ENOENT of a kernel that has no such file (before Linux 4.14), and EACCES
		// of a process that became another's while it ended.
		if s, alive, statErr := readStat(pid); statErr == nil && (!alive || s.dead()) {
			return 0, true, nil
		}
		return 0, false, err
	}
	for line := range bytes.Lines(b) {
		if rest, is := bytes.CutPrefix(line, []byte("Pss:")); is {
			rest, _ = bytes.CutSuffix(bytes.TrimSpace(rest), []byte(" kB"))
			kilobytes, err := strconv.ParseUint(string(bytes.TrimSpace(rest)), 10, 64)
			return kilobytes << 10, err == nil, err
		}
	}
	return 0, false, errGarbled
}

// slurp reads a file of /proc/PID, as much as buf holds. os.ReadFile takes half as long
// again, and a look at every process is many of these.
func slurp(pid int, name string, buf []byte) ([]byte, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/" + name
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd) // read only
	n := 0
	for n < len(buf) {
		more, err := unix.Read(fd, buf[n:])
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		if more == 0 {
			break
		}
		n += more
	}
	return buf[:n], nil
}

package process

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// stat is what /proc/PID/stat says of a process's place (proc_pid_stat(5)).
type stat struct {
	pid, parent, group int
	state              byte
	exiting            bool
}

// pfExiting is PF_EXITING of linux/sched.h, in the ninth field: set before a process
// begins to let go of anything.
const pfExiting = 0x4

// dead: a zombie, or on its way out. It holds nothing and runs nothing.
func (s stat) dead() bool { return s.state == 'Z' || s.state == 'X' || s.state == 'x' }

// parseStat reads a stat line. The second field, the name in parentheses, is the
// process's own choice and may hold blanks and parentheses: what counts begins
// behind the last ')'.
func parseStat(b []byte) (stat, bool) {
	var s stat
	open, shut := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || shut < open {
		return s, false
	}
	f := bytes.Fields(b[shut+1:])
	if len(f) < 3 {
		return s, false
	}
	s.state = f[0][0]
	for to, from := range map[*int][]byte{
		&s.pid: bytes.TrimSpace(b[:open]), &s.parent: f[1], &s.group: f[2],
	} {
		n, err := strconv.Atoi(string(from))
		if err != nil {
			return s, false
		}
		*to = n
	}
	if len(f) > 6 {
		flags, _ := strconv.ParseUint(string(f[6]), 10, 64) // 0 where they are not told
		s.exiting = flags&pfExiting != 0
	}
	return s, true
}

// readStat reads one process. false without an error: it has ended.
func readStat(pid int) (stat, bool, error) {
	var buf [1024]byte
	return readStatBy(pid, buf[:])
}

func readStatBy(pid int, buf []byte) (stat, bool, error) {
	b, err := slurp(pid, "stat", buf)
	if err != nil {
		if ended(err) {
			err = nil
		}
		return stat{}, false, err
	}
	s, ok := parseStat(b)
	return s, ok, nil
}

// ended: the error of a look into /proc/PID says that there is no such process,
// or no such descriptor, any more. Everything else (EMFILE, EACCES) means that it
// could not be seen. Where proc(5) is not mounted this is said of every process:
// scanProcesses finds that out.
func ended(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESRCH)
}

// scanProcesses reads every process there is. It is no snapshot: processes come
// and go while it reads. With an error the map lacks those that could not be read.
func scanProcesses() (map[int]stat, error) {
	all := make(map[int]stat)
	pids, err := numbers("/proc")
	errs := []error{err}
	var buf [1024]byte
	for _, pid := range pids {
		s, ok, err := readStatBy(pid, buf[:])
		if ok {
			all[pid] = s
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return all, err
	}
	if _, ok := all[os.Getpid()]; !ok {
		return all, errors.New("/proc shows not even this process: is proc(5) mounted, and of this pid namespace?")
	}
	return all, nil
}

// numbers lists the entries of a directory whose names are numbers. One that is
// gone has none.
func numbers(dir string) ([]int, error) {
	d, err := os.Open(dir)
	if err != nil {
		if ended(err) {
			err = nil
		}
		return nil, err
	}
	defer d.Close() // read only
	names, err := d.Readdirnames(-1)
	if ended(err) {
		err = nil
	}
	list := make([]int, 0, len(names)) // what was read before an error counts
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			list = append(list, n)
		}
	}
	return list, err
}

// alive tells which numbers still are the worker's and may be compared: the main
// process's pid, its group's.
func (p *Process) alive() (main, group bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped && !p.gone {
		_ = p.kill(0) // only to learn whether the group is gone
	}
	return !p.lapsed(), !p.gone
}

// Ending says whether the main process has ended or is on its way out, although
// nobody may have waited for it yet. Who finds that it holds something no more asks
// this next: one that was killed lets go of all it has before its exit is told.
func (p *Process) Ending() bool {
	if main, _ := p.alive(); !main {
		return true
	}
	s, ok, err := readStat(p.pid)
	return err == nil && (!ok || s.dead() || s.exiting)
}

// related: s belongs to the worker by its own numbers.
func (p *Process) related(s stat, main, group bool) bool {
	return main && s.pid == p.pid || group && s.group == p.pid
}

// Contains tells whether pid is a process of this worker now: in its process group,
// or a descendant of one that is, in whatever group or session of its own. A daemon
// that left the group and whose parent is gone is not found any more (only a cgroup
// would know). A zombie still counts, a process that has been reaped does not.
func (p *Process) Contains(pid int) bool {
	main, group := p.alive()
	self := os.Getpid()
	// The depth only bounds the walk: a pid given again meanwhile could lead in a ring.
	for range 1000 {
		if pid <= 1 || pid == self {
			return false
		}
		s, ok, _ := readStat(pid) // who cannot be seen is not taken for one of ours
		if !ok {
			return false
		}
		if p.related(s, main, group) {
			return true
		}
		pid = s.parent
	}
	return false
}

// PIDs lists the worker's processes that run now (no zombies), the main one first;
// those that can be seen, where some cannot.
func (p *Process) PIDs() []int {
	pids, _ := p.members() // documented
	return pids
}

// members is PIDs, with the reason when some could not be seen.
func (p *Process) members() ([]int, error) {
	members, errs := membersOf([]*Process{p})
	var pids []int
	for _, s := range members[0] {
		if !s.dead() {
			pids = append(pids, s.pid)
		}
	}
	return pids, errs[0]
}

// membersOf lists each worker's processes, zombies among them, the main one first
// and parents before their children, at one look. An error, of each worker too, says
// that some could not be seen.
func membersOf(workers []*Process) ([][]stat, []error) {
	members, errs := make([][]stat, len(workers)), make([]error, len(workers))
	c := census{main: map[int]int{}, group: map[int]int{}, seen: map[int]seat{}}
	for i, p := range workers {
		main, group := p.alive()
		if main {
			c.main[p.pid] = i
		}
		if group {
			c.group[p.pid] = i
		}
	}
	if len(c.main) == 0 && len(c.group) == 0 {
		return members, errs
	}
	all, err := scanProcesses()
	c.all = all
	for pid, s := range all {
		if at := c.seat(pid, 0); at.taken {
			members[at.worker] = append(members[at.worker], s)
		}
	}
	for i, p := range workers {
		rank := func(s stat) int {
			if s.pid == p.pid {
				return -1
			}
			return c.seen[s.pid].below
		}
		slices.SortFunc(members[i], func(a, b stat) int { return cmp.Or(rank(a)-rank(b), a.pid-b.pid) })
		if errs[i] = err; err == nil {
			errs[i] = p.hidden(c)
		}
	}
	return members, errs
}

// hidden says that the main process, which until it is reaped has a place in /proc,
// be it as a zombie, was not shown in a look that saw everything.
func (p *Process) hidden(c census) error {
	_, asked := c.main[p.pid]
	if _, shown := c.all[p.pid]; !asked || shown {
		return nil
	}
	if main, _ := p.alive(); main {
		return fmt.Errorf("/proc does not show process %d (hidepid, proc(5))", p.pid)
	}
	return nil
}

// census finds the worker that a process belongs to.
type census struct {
	all         map[int]stat
	main, group map[int]int // to the worker's index
	seen        map[int]seat
}

// seat is a process's place: its worker, and how many of that worker's processes are
// above it.
type seat struct {
	taken         bool
	worker, below int
}

// seat of a process: by its own numbers, or its parent's. The depth only bounds the
// walk: a pid given again meanwhile could lead in a ring.
func (c census) seat(pid, depth int) seat {
	if at, ok := c.seen[pid]; ok {
		return at
	}
	s, ok := c.all[pid]
	if !ok || depth >= 1000 {
		return seat{}
	}
	at := c.seat(s.parent, depth+1)
	worker, own := c.main[pid]
	if !own {
		worker, own = c.group[s.group]
	}
	switch {
	case own && (!at.taken || at.worker != worker):
		at = seat{taken: true, worker: worker}
	case at.taken:
		at.below++
	}
	c.seen[pid] = at
	return at
}

// places remembers where a socket was last seen: inode to process and descriptor.
type places struct {
	mu sync.Mutex
	at map[uint64]place
}

type place struct{ pid, fd int }

// Holds tells whether some process of the worker has the socket open. An error
// means that it was not found where one could look, and that one could not look
// everywhere: no descriptor is free for it, /proc is not there, or a process is
// not ours to look into (of another user, or not dumpable, without CAP_SYS_PTRACE;
// proc_pid_fd(5)). A process that has ended holds nothing, which is no error.
//
// A socket that was seen before costs one readlink; any other a look at the
// descriptors of the main process, and only then of all processes of the worker.
// For many sockets at once use Inodes.
func (p *Process) Holds(inode uint64) (bool, error) {
	p.seen.mu.Lock()
	at, ok := p.seen.at[inode]
	p.seen.mu.Unlock()
	if ok && at.holds(inode) && p.Contains(at.pid) {
		return true, nil
	}
	if p.holdsItself(inode) {
		return true, nil
	}
	all, err := p.Inodes()
	if all[inode] {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("socket %d of process %d: %w", inode, p.pid, err)
	}
	return false, nil
}

// holdsItself looks at the descriptors of the main process alone, which is where
// a socket usually is, and spares the look at every process of the machine.
func (p *Process) holdsItself(inode uint64) bool {
	if main, _ := p.alive(); !main {
		return false
	}
	found := false
	// What it cannot see, the look at all processes tells.
	_ = eachSocket(p.pid, func(n uint64, where place) bool {
		if found = n == inode; found {
			p.remember(inode, where)
		}
		return !found
	})
	return found
}

func (p *Process) remember(inode uint64, where place) {
	p.seen.mu.Lock()
	defer p.seen.mu.Unlock()
	if p.seen.at == nil {
		p.seen.at = make(map[uint64]place)
	}
	p.seen.at[inode] = where
}

// Inodes are all sockets that processes of the worker have open now. With an error
// (as for Holds) there may be more.
func (p *Process) Inodes() (map[uint64]bool, error) {
	at := make(map[uint64]place)
	held := make(map[uint64]bool)
	pids, err := p.members()
	errs := []error{err}
	for _, pid := range pids {
		errs = append(errs, eachSocket(pid, func(inode uint64, where place) bool {
			at[inode], held[inode] = where, true
			return true
		}))
	}
	p.seen.mu.Lock()
	p.seen.at = at
	p.seen.mu.Unlock()
	return held, errors.Join(errs...)
}

// eachSocket calls what for every socket that the process has open, until it
// returns false. No error when the process has ended.
func eachSocket(pid int, what func(inode uint64, where place) bool) error {
	err := sockets(pid, what)
	if err == nil {
		return nil
	}
	// A process that ends may become another's to look into before it is gone.
	if s, ok, statErr := readStat(pid); statErr == nil && (!ok || s.dead()) {
		return nil
	}
	return err
}

func sockets(pid int, what func(inode uint64, where place) bool) error {
	fds, err := numbers("/proc/" + strconv.Itoa(pid) + "/fd")
	errs := []error{err}
	for _, fd := range fds {
		where := place{pid, fd}
		inode, err := where.inode()
		if inode != 0 && !what(inode, where) {
			return nil
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// holds: the socket is at that place, as far as can be seen.
func (w place) holds(inode uint64) bool {
	n, err := w.inode()
	return err == nil && n == inode
}

// inode of the socket at that place; 0 when there is none.
func (w place) inode() (inode uint64, err error) {
	var buf [64]byte
	path := "/proc/" + strconv.Itoa(w.pid) + "/fd/" + strconv.Itoa(w.fd)
	n, err := syscall.Readlink(path, buf[:])
	if ended(err) {
		return 0, nil // closed, or its process has ended
	}
	if err != nil {
		return 0, fmt.Errorf("readlink %s: %w", path, err)
	}
	rest, ok := strings.CutPrefix(string(buf[:n]), "socket:[")
	if !ok {
		return 0, nil
	}
	// An error means a file of somebody's by such a name: 0, or what no socket has.
	inode, _ = strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64)
	return inode, nil
}

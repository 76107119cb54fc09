package process

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// stat is what /proc/PID/stat says of a process's place (proc_pid_stat(5)).
type stat struct {
	pid, parent, group int
	state              byte
}

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
	return s, true
}

func readStat(pid int) (stat, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, false // it has ended
	}
	return parseStat(b)
}

// scanProcesses reads every process there is. It is no snapshot: processes come
// and go while it reads.
func scanProcesses() map[int]stat {
	all := make(map[int]stat)
	for _, pid := range numbers("/proc") {
		if s, ok := readStat(pid); ok {
			all[pid] = s
		}
	}
	return all
}

// numbers lists the entries of a directory whose names are numbers.
func numbers(dir string) []int {
	d, err := os.Open(dir)
	if err != nil {
		return nil // gone, or not ours to see: it holds nothing that we know
	}
	defer d.Close()                // read only
	names, _ := d.Readdirnames(-1) // what was read before an error counts
	list := make([]int, 0, len(names))
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			list = append(list, n)
		}
	}
	return list
}

// alive tells which numbers still are the worker's and may be compared: the main
// process's pid, its group's.
func (p *Process) alive() (main, group bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped && !p.gone {
		_ = p.kill(0) // only to learn whether the group is gone
	}
	return !p.reaped, !p.gone
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
		s, ok := readStat(pid)
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

// PIDs lists the worker's processes that run now (no zombies), the main one first.
func (p *Process) PIDs() []int {
	main, group := p.alive()
	if !main && !group {
		return nil
	}
	all := scanProcesses()
	known := make(map[int]bool, len(all))
	var belongs func(pid, depth int) bool
	belongs = func(pid, depth int) bool {
		if k, ok := known[pid]; ok {
			return k
		}
		s, ok := all[pid]
		in := ok && depth < 1000 && (p.related(s, main, group) || belongs(s.parent, depth+1))
		known[pid] = in
		return in
	}
	var pids []int
	for pid, s := range all {
		if pid != p.pid && !s.dead() && belongs(pid, 0) {
			pids = append(pids, pid)
		}
	}
	if s, ok := all[p.pid]; main && ok && !s.dead() {
		pids = append([]int{p.pid}, pids...)
	}
	return pids
}

// places remembers where a socket was last seen: inode to process and descriptor.
type places struct {
	mu sync.Mutex
	at map[uint64]place
}

type place struct{ pid, fd int }

// Holds tells whether some process of the worker has the socket open. A socket that
// was seen before costs one readlink; any other a look at the descriptors of the
// main process, and only then of all processes of the worker. For many sockets at once use Inodes.
func (p *Process) Holds(inode uint64) bool {
	p.seen.mu.Lock()
	at, ok := p.seen.at[inode]
	p.seen.mu.Unlock()
	if ok && at.inode() == inode && p.Contains(at.pid) {
		return true
	}
	return p.holdsItself(inode) || p.Inodes()[inode]
}

// holdsItself looks at the descriptors of the main process alone, which is where
// a socket usually is, and spares the look at every process of the machine.
func (p *Process) holdsItself(inode uint64) bool {
	if main, _ := p.alive(); !main {
		return false
	}
	for _, fd := range numbers("/proc/" + strconv.Itoa(p.pid) + "/fd") {
		where := place{p.pid, fd}
		if where.inode() == inode {
			p.remember(inode, where)
			return true
		}
	}
	return false
}

func (p *Process) remember(inode uint64, where place) {
	p.seen.mu.Lock()
	defer p.seen.mu.Unlock()
	if p.seen.at == nil {
		p.seen.at = make(map[uint64]place)
	}
	p.seen.at[inode] = where
}

// Inodes are all sockets that processes of the worker have open now.
func (p *Process) Inodes() map[uint64]bool {
	at := make(map[uint64]place)
	held := make(map[uint64]bool)
	for _, pid := range p.PIDs() {
		for _, fd := range numbers("/proc/" + strconv.Itoa(pid) + "/fd") {
			where := place{pid, fd}
			if inode := where.inode(); inode != 0 {
				at[inode], held[inode] = where, true
			}
		}
	}
	p.seen.mu.Lock()
	p.seen.at = at
	p.seen.mu.Unlock()
	return held
}

// inode of the socket at that place; 0 when there is none.
func (w place) inode() uint64 {
	var buf [64]byte
	path := "/proc/" + strconv.Itoa(w.pid) + "/fd/" + strconv.Itoa(w.fd)
	n, err := syscall.Readlink(path, buf[:])
	if err != nil {
		return 0 // closed, or its process has ended
	}
	rest, ok := strings.CutPrefix(string(buf[:n]), "socket:[")
	if !ok {
		return 0
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0
	}
	return inode
}

package process

import (
	"math"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// CPUs is how many processors this process may keep busy now: those it may be
// scheduled on (sched_setaffinity(2), cpuset), or what the CPU quota of its cgroup
// and of every one above it comes to, rounded up, where that is less. At least 1.
//
// It is not runtime.GOMAXPROCS: a GOMAXPROCS variable means this program and not
// its workers, and Go's own reading of a quota never goes below 2. Nor is it
// runtime.NumCPU, which is what held when the process began.
func CPUs() int {
	n := affinity()
	if quota, ok := quota("/"); ok {
		n = min(n, quota)
	}
	return max(n, 1)
}

// affinity is the main thread's, which is what taskset(1) sets and shows.
func affinity() int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(os.Getpid(), &set); err != nil {
		return runtime.NumCPU() // EINVAL: the kernel knows of more CPUs than the set holds
	}
	return set.Count()
}

// quota is the least CPU quota of this process's cgroups, in whole CPUs; false when
// none sets one, or none can be seen. root is "/", but for tests.
func quota(root string) (cpus int, ok bool) {
	groups, err := os.ReadFile(root + "/proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	mounts, err := os.ReadFile(root + "/proc/self/mountinfo")
	if err != nil {
		return 0, false
	}
	mine := parseCgroups(string(groups))
	for line := range strings.Lines(string(mounts)) {
		m, is := parseMount(line)
		if !is {
			continue
		}
		for dir := range m.beneath(mine) {
			if n, set := m.limit(root + dir); set && (!ok || n < cpus) {
				cpus, ok = n, true
			}
		}
	}
	return cpus, ok
}

// cgroups are a process's own, by what it has for CPU time: version 2's one, and
// version 1's for the controller cpu. Empty: none.
type cgroups struct{ v2, v1 string }

// parseCgroups reads /proc/PID/cgroup (cgroups(7)): "ID:CONTROLLERS:PATH".
func parseCgroups(text string) (g cgroups) {
	for line := range strings.Lines(text) {
		id, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, where, ok := strings.Cut(rest, ":")
		switch {
		case !ok || !strings.HasPrefix(where, "/"):
		case id == "0" && controllers == "":
			g.v2 = where
		case contains(controllers, "cpu"):
			g.v1 = where
		}
	}
	return g
}

func contains(list, word string) bool { return strings.Contains(","+list+",", ","+word+",") }

// mount is where cgroups can be seen.
type mount struct {
	v2   bool
	root string // the cgroup that lies at its point
	at   string
}

// parseMount reads a line of /proc/PID/mountinfo (proc_pid_mountinfo(5)); false for
// what has nothing to do with CPU time.
func parseMount(line string) (mount, bool) {
	left, right, ok := strings.Cut(line, " - ")
	f, g := strings.Fields(left), strings.Fields(right)
	if !ok || len(f) < 6 || len(g) < 3 {
		return mount{}, false
	}
	m := mount{v2: g[0] == "cgroup2", root: unescape(f[3]), at: unescape(f[4])}
	return m, m.v2 || g[0] == "cgroup" && contains(g[2], "cpu")
}

// unescape undoes what the kernel does to blanks and backslashes in paths.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// beneath lists the directories of the process's cgroup and of all above it, as far
// as the mount shows them. One that is not beneath the mount's own (of another
// container's cgroup, or outside of this cgroup namespace) has none there.
func (m mount) beneath(mine cgroups) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		own := mine.v1
		if m.v2 {
			own = mine.v2
		}
		rest, ok := strings.CutPrefix(own, strings.TrimSuffix(m.root, "/"))
		if own == "" || !ok || rest != "" && rest[0] != '/' || contains(strings.ReplaceAll(rest, "/", ","), "..") {
			return
		}
		for rest = path.Clean("/" + rest); ; rest = path.Dir(rest) {
			if !yield(path.Join(m.at, rest)) || rest == "/" {
				return
			}
		}
	}
}

// limit is the quota that a cgroup's directory says; false when it says none, as the
// root of all does, and those whose parents do not hand the controller down.
func (m mount) limit(dir string) (cpus int, ok bool) {
	if m.v2 {
		quota, period, _ := strings.Cut(text(dir+"/cpu.max"), " ") // "max" is no number
		return whole(quota, period)
	}
	return whole(text(dir+"/cpu.cfs_quota_us"), text(dir+"/cpu.cfs_period_us")) // -1: none
}

// text is what a file says; "" when it is not there.
func text(name string) string {
	b, _ := os.ReadFile(name) // not there, or not ours to read: nothing is known of it
	return strings.TrimSpace(string(b))
}

func whole(quota, period string) (cpus int, ok bool) {
	q, err := strconv.ParseInt(quota, 10, 64)
	p, err2 := strconv.ParseInt(period, 10, 64)
	if err != nil || err2 != nil || q <= 0 || p <= 0 {
		return 0, false
	}
	return int(min((q-1)/p+1, math.MaxInt32)), true
}

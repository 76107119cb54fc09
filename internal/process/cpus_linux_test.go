package process

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	targets["cpus"] = func([]string) { fmt.Println(CPUs()) }
	// Is bound to one when it runs already, as by taskset -p.
	targets["cpus-bound-late"] = func([]string) {
		exit(unix.SchedSetaffinity(os.Getpid(), first(cpuSet())))
		fmt.Println(CPUs())
	}
	// Goes into the cgroup's directory args[0] first.
	targets["cpus-in-cgroup"] = func(args []string) {
		exit(os.WriteFile(args[0]+"/cgroup.procs", []byte("0"), 0o644))
		fmt.Println(CPUs())
	}
}

// Recorded: systemd's layouts, Docker's and Kubernetes'.
const (
	unified = `24 30 0:22 / /proc rw,nosuid - proc proc rw
35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
`
	separate = `31 23 0:27 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,mode=755
32 31 0:28 / /sys/fs/cgroup/systemd rw,relatime shared:9 - cgroup cgroup rw,xattr,name=systemd
36 31 0:32 / /sys/fs/cgroup/cpuset rw,relatime shared:14 - cgroup cgroup rw,cpuset
40 31 0:36 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:18 - cgroup cgroup rw,cpu,cpuacct
41 31 0:37 / /sys/fs/cgroup/unified rw,relatime shared:19 - cgroup2 cgroup2 rw
`
	separateGroups = `11:cpu,cpuacct:/system.slice/app.service
10:cpuset:/
1:name=systemd:/system.slice/app.service
0::/system.slice/app.service
`
	docker1 = `1016 1000 0:36 /docker/cafe /sys/fs/cgroup/cpu,cpuacct ro,relatime master:18 - cgroup cgroup rw,cpu,cpuacct
`
)

func TestTheQuotaIsTheLeastFromTheOwnCgroupUp(t *testing.T) {
	const at, cpu = "/sys/fs/cgroup/", "/sys/fs/cgroup/cpu,cpuacct/"
	for name, c := range map[string]struct {
		groups, mounts string
		files          map[string]string
		want           int // 0: none
	}{
		"v2, its own": {"0::/system.slice/app.service\n", unified, map[string]string{
			at + "system.slice/app.service/cpu.max": "200000 100000", at + "system.slice/cpu.max": "max 100000",
		}, 2},
		"v2, rounded up": {"0::/a\n", unified, map[string]string{at + "a/cpu.max": "250001 100000"}, 3},
		"v2, below one":  {"0::/a\n", unified, map[string]string{at + "a/cpu.max": "5000 100000"}, 1},
		"v2, a nested one is less": {"0::/kube/pod/box\n", unified, map[string]string{
			at + "kube/cpu.max": "800000 100000", at + "kube/pod/cpu.max": "300000 100000", at + "kube/pod/box/cpu.max": "600000 100000",
		}, 3},
		"v2, one above is less":                {"0::/a/b/c\n", unified, map[string]string{at + "a/cpu.max": "150000 50000", at + "a/b/c/cpu.max": "400000 100000"}, 3},
		"v2, none":                             {"0::/a/b\n", unified, map[string]string{at + "a/cpu.max": "max 100000", at + "a/b/cpu.max": "max 100000"}, 0},
		"v2, another's":                        {"0::/a\n", unified, map[string]string{at + "ab/cpu.max": "100000 100000", at + "a/b/cpu.max": "100000 100000"}, 0},
		"v2, a container's own root":           {"0::/\n", unified, map[string]string{at + "cpu.max": "400000 100000"}, 4},
		"v2, outside of the namespace's":       {"0::/../other\n", unified, map[string]string{at + "cpu.max": "400000 100000", at + "other/cpu.max": "300000 100000"}, 0},
		"v2, the folder is mounted":            {"0::/docker/cafe/x\n", "35 24 0:30 /docker/cafe /cg rw - cgroup2 cgroup rw\n", map[string]string{"/cg/cpu.max": "400000 100000", "/cg/x/cpu.max": "300000 100000", "/docker/cafe/cpu.max": "100000 100000"}, 3},
		"v2, one with a like name is mounted":  {"0::/docker/cafes\n", "35 24 0:30 /docker/cafe /cg rw - cgroup2 cgroup rw\n", map[string]string{"/cg/cpu.max": "400000 100000", "/cg/s/cpu.max": "300000 100000"}, 0},
		"v2, a blank in the path":              {"0::/a\n", `35 24 0:30 / /my\040cg rw - cgroup2 cgroup rw` + "\n", map[string]string{"/my cg/a/cpu.max": "500000 100000"}, 5},
		"v2, nonsense":                         {"0::/a\n", unified, map[string]string{at + "a/cpu.max": "100000 0", at + "cpu.max": "x"}, 0},
		"v1, its own":                          {separateGroups, separate, map[string]string{cpu + "system.slice/app.service/cpu.cfs_quota_us": "250000\n", cpu + "system.slice/app.service/cpu.cfs_period_us": "100000\n"}, 3},
		"v1, one above is less":                {separateGroups, separate, map[string]string{cpu + "system.slice/app.service/cpu.cfs_quota_us": "800000", cpu + "system.slice/app.service/cpu.cfs_period_us": "100000", cpu + "system.slice/cpu.cfs_quota_us": "100000", cpu + "system.slice/cpu.cfs_period_us": "25000"}, 4},
		"v1, none":                             {separateGroups, separate, map[string]string{cpu + "system.slice/app.service/cpu.cfs_quota_us": "-1", cpu + "system.slice/app.service/cpu.cfs_period_us": "100000"}, 0},
		"v1, of a controller with a like name": {"4:cpuset:/a\n", separate, map[string]string{cpu + "a/cpu.cfs_quota_us": "100000", cpu + "a/cpu.cfs_period_us": "100000", at + "cpuset/a/cpu.cfs_quota_us": "100000", at + "cpuset/a/cpu.cfs_period_us": "100000"}, 0},
		"v1, in a container":                   {"11:cpu,cpuacct:/docker/cafe\n", docker1, map[string]string{cpu + "cpu.cfs_quota_us": "600000", cpu + "cpu.cfs_period_us": "100000"}, 6},
		"both, and version 2 is less": {separateGroups, separate, map[string]string{
			cpu + "system.slice/app.service/cpu.cfs_quota_us": "800000", cpu + "system.slice/app.service/cpu.cfs_period_us": "100000",
			at + "unified/system.slice/app.service/cpu.max": "700000 100000",
		}, 7},
		"nothing is mounted": {separateGroups, "", nil, 0},
		"no cgroup":          {"", unified, map[string]string{at + "cpu.max": "100000 100000"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			put := func(path, text string) {
				if err := os.MkdirAll(filepath.Dir(root+path), 0o755); err != nil {
					t.Fatal(err)
				}
				write(t, root+path, text, 0o644)
			}
			put("/proc/self/cgroup", c.groups)
			put("/proc/self/mountinfo", c.mounts)
			for path, text := range c.files {
				put(path, text)
			}
			if got, ok := quota(root); got != c.want || ok != (c.want > 0) {
				t.Errorf("%d, %v; want %d", got, ok, c.want)
			}
		})
	}
	if n, ok := quota(t.TempDir()); ok {
		t.Errorf("without /proc: %d", n)
	}
}

func FuzzCgroups(f *testing.F) {
	f.Add(separateGroups, separate)
	f.Add("0::/../x\n", `35 24 0:30 /.. /a\040b rw - cgroup2 c rw`)
	f.Fuzz(func(t *testing.T, groups, mounts string) {
		m, ok := parseMount(mounts)
		if !ok {
			return
		}
		for dir := range m.beneath(parseCgroups(groups)) {
			if strings.HasPrefix(m.at, "/") && dir != filepath.Clean(m.at) && !strings.HasPrefix(dir, strings.TrimSuffix(filepath.Clean(m.at), "/")+"/") {
				t.Errorf("%q is not beneath %q", dir, m.at)
			}
		}
	})
}

// cpuSet is the main thread's.
func cpuSet() *unix.CPUSet {
	var set unix.CPUSet
	exit(unix.SchedGetaffinity(os.Getpid(), &set))
	return &set
}

func first(of *unix.CPUSet) *unix.CPUSet {
	var one unix.CPUSet
	for cpu := 0; one.Count() == 0; cpu++ {
		if of.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	return &one
}

// Neither Go's variable counts, nor how many there were when the process began.
func TestCPUsAreThoseOfTheAffinityNow(t *testing.T) {
	all := cpuSet()
	if all.Count() < 2 {
		t.Skip("one CPU only")
	}
	count := func(how string) int {
		return start(t, resolve(t, target(t, how)), func(s *Spec) { s.Env = append(s.Env, "GOMAXPROCS=1") }).number(t)
	}
	want := all.Count()
	if n, ok := quota("/"); ok {
		want = min(want, n)
	}
	if got := count("cpus"); got != want {
		t.Errorf("%d CPUs, want %d", got, want)
	}
	if got := count("cpus-bound-late"); got != 1 {
		t.Errorf("%d CPUs for a process that was bound to one while it ran", got)
	}
	runtime.LockOSThread() // the child inherits this thread's set
	defer runtime.UnlockOSThread()
	if err := unix.SchedSetaffinity(0, first(all)); err != nil {
		t.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, all) // before the thread is anybody else's
	if got := count("cpus"); got != 1 {
		t.Errorf("%d CPUs for a process that is bound to one from the start", got)
	}
}

func TestCPUsAreThoseOfARealQuota(t *testing.T) {
	asRoot(t)
	if affinity() < 2 {
		t.Skip("one CPU only")
	}
	dir := cgroup(t)
	child := filepath.Join(dir, "child")
	if err := os.Mkdir(child, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(child) // its process has ended by then
	p := start(t, resolve(t, target(t, "cpus-in-cgroup", child)))
	if got := p.number(t); got != 1 {
		t.Errorf("%d CPUs under a quota of a half one, one level up", got)
	}
	p.ended(t)
}

// cgroup makes one with half a CPU, where the system has them and lets it.
func cgroup(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		m, ok := parseMount(line)
		if !ok {
			continue
		}
		for at := range m.beneath(parseCgroups(string(groups))) {
			dir := filepath.Join(at, fmt.Sprintf("baton-test-%d", os.Getpid()))
			if os.Mkdir(dir, 0o755) != nil {
				break // read-only
			}
			t.Cleanup(func() {
				eventually(t, "the cgroup is removed", func() bool { return syscall.Rmdir(dir) == nil })
			})
			file, quota := "cpu.cfs_quota_us", "50000"
			if m.v2 {
				file, quota = "cpu.max", "50000 100000"
			}
			// Not created: O_CREATE would fail another way than the missing file does.
			f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
			if err != nil {
				break // the controller is not handed down here
			}
			_, err = f.WriteString(quota)
			f.Close()
			if err != nil {
				t.Fatal(err)
			}
			return dir
		}
	}
	t.Skip("no cgroup with a CPU quota can be made here")
	return ""
}

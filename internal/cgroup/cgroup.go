// Package cgroup keeps the processes of each generation in a control group of their own,
// below the group of the systemd unit whose main process this one is.
//
// It is version 2 alone that has groups made in it, and only where systemd has handed the
// unit's group over (Delegate=yes): a group that is anybody else's is never written to.
// In systemd's version 1 hierarchy the unit's processes can be listed, and that is all.
//
// The invariant: a group's name is its generation's number, so that the launcher which
// takes another's place finds the groups again. Nothing is ended here but what lies in
// a generation's group, and only when it is asked for. Without limits no controller is
// enabled, and the launcher stays where systemd has put it.
//
// Kernel: Documentation/admin-guide/cgroup-v2.rst. systemd: docs/CGROUP_DELEGATION.md.
package cgroup

import (
	"bufio"
	"strconv"
	"strings"
	"time"
)

// Figures are what a group's processes use and have used together, those that have ended
// among them. Of memory, with what the kernel holds for them: pages of files they have
// read, for one.
type Figures struct {
	Memory uint64        // bytes; 0: not told, since the controller is not enabled
	CPU    time.Duration // user and system time
}

// Kills are what the kernel has counted in memory.events.
type Kills struct {
	Limit uint64 // how often the group's limit, or one of a group within it, was reached and nothing could be reclaimed
	OOM   uint64 // processes that were killed for memory, by whatever limit, or none but the machine's
}

// parseKills reads memory.events.
func parseKills(text string) Kills {
	f := flat(text)
	return Kills{Limit: f["oom"], OOM: f["oom_kill"]}
}

// parseCPU reads cpu.stat, which every group has, whether or not the controller is enabled.
func parseCPU(text string) time.Duration {
	return time.Duration(flat(text)["usage_usec"]) * time.Microsecond
}

// flat reads a "flat keyed" file: a name and a number on each line. What has another form
// is left out.
func flat(text string) map[string]uint64 {
	all := make(map[string]uint64)
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if n, err := strconv.ParseUint(value, 10, 64); ok && err == nil {
			all[name] = n
		}
	}
	return all
}

// parsePIDs reads cgroup.procs. 0 is a process of another pid namespace.
func parsePIDs(text string) (pids []int) {
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if pid, err := strconv.Atoi(lines.Text()); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// place is a process's group in one hierarchy.
type place struct {
	v2   bool
	path string
}

// parsePlaces reads /proc/PID/cgroup (cgroups(7)): the group in version 2, and that in the
// hierarchy of version 1 in which systemd keeps its units.
func parsePlaces(text string) (places []place) {
	for line := range strings.Lines(text) {
		id, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, ok := strings.Cut(rest, ":")
		switch {
		case !ok || !strings.HasPrefix(path, "/"):
		case id == "0" && controllers == "":
			places = append([]place{{v2: true, path: path}}, places...)
		case controllers == "name=systemd":
			places = append(places, place{path: path})
		}
	}
	return places
}

// serviceOf is the group of the service that a group is, or lies in directly, as the
// launcher's own and systemd's for control processes do; false when there is none. A
// scope is no service's, whatever it lies in.
func serviceOf(path string) (service string, ok bool) {
	above, last := cut(path)
	if strings.HasSuffix(last, ".service") {
		return path, true
	}
	if _, unit := cut(above); strings.HasSuffix(unit, ".service") && (last == control || !strings.Contains(last, ".")) {
		return above, true
	}
	return "", false
}

func cut(path string) (above, last string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

// Groups within a unit's.
const (
	prefix  = "generation-"
	leaf    = "launcher" // once controllers are enabled no process may be beside groups
	control = ".control" // systemd's, for ExecReload= and its kind
)

// numberOf is the generation of a group, by its name; false: it is none's.
func numberOf(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && n > 0 && strconv.Itoa(n) == digits
}

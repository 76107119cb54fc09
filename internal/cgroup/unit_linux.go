package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Unit is the group of a systemd service. A nil one is that of a process which is in none.
type Unit struct {
	dir       string // in the hierarchy in which systemd keeps its units
	delegated bool   // it is version 2, and ours
}

// Own is the group of the service whose main process this one is; nil when it is none's:
// started from a terminal, in a container, or by something that a unit runs, in which
// case others share the group.
func Own() *Unit {
	// Of the main process and those of ExecReload= and its kind, systemd.exec(5) says.
	if os.Getenv("SYSTEMD_EXEC_PID") != strconv.Itoa(os.Getpid()) {
		return nil
	}
	return find("/sys/fs/cgroup", os.Getpid())
}

// Around is the group of the service that this process is of, main or not.
func Around() *Unit { return find("/sys/fs/cgroup", os.Getpid()) }

// find looks below root, where systemd has its hierarchies, for the service of a process.
func find(root string, pid int) *Unit {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return nil
	}
	for _, p := range parsePlaces(string(text)) {
		service, ok := serviceOf(p.path)
		if !ok {
			continue
		}
		mounts := []string{root + "/systemd"}
		if p.v2 {
			mounts = []string{root, root + "/unified"}
		}
		for _, mount := range mounts {
			// Who finds itself there is not misled by namespaces and bind mounts.
			if pids, err := processes(mount + p.path); err == nil && slices.Contains(pids, pid) {
				return &Unit{dir: mount + service, delegated: p.v2 && delegated(mount+service)}
			}
		}
	}
	return nil
}

// delegated: systemd says so of the group, to everybody since 251, before that to whom has
// CAP_SYS_ADMIN. That it can be written to says too little: a user's own manager has
// all groups of its units, and root has all there are.
func delegated(dir string) bool {
	for _, file := range []string{"", "/cgroup.procs", "/cgroup.subtree_control"} {
		if unix.Access(dir+file, unix.W_OK) != nil { // the whole hierarchy may be read-only
			return false
		}
	}
	var value [2]byte
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		if n, err := unix.Getxattr(dir, name, value[:]); err == nil {
			return string(value[:n]) == "1"
		}
	}
	return false
}

// Delegated says whether groups can be made in it.
func (u *Unit) Delegated() bool { return u != nil && u.delegated }

// Name of the unit; "" of none.
func (u *Unit) Name() string {
	if u == nil {
		return ""
	}
	return filepath.Base(u.dir)
}

// Processes are all of the service by the generation whose group they are in; 0: in none's.
// Those that systemd runs beside the main one are not among them, nor those in
// groups that somebody else has made.
func (u *Unit) Processes() (map[int]int, error) {
	all := make(map[int]int)
	if u == nil {
		return all, nil
	}
	pids, err := processes(u.dir)
	if err != nil {
		return nil, err
	}
	if u.delegated {
		own, err := processes(filepath.Join(u.dir, leaf))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		pids = append(pids, own...)
	}
	for _, pid := range pids {
		all[pid] = 0
	}
	for _, g := range u.Groups() {
		within, err := g.Processes()
		if err != nil {
			return nil, err
		}
		for _, pid := range within {
			all[pid] = g.number
		}
	}
	return all, nil
}

// Groups are those of generations that there are, this launcher's or another's.
func (u *Unit) Groups() (all []*Group) {
	if !u.Delegated() {
		return nil
	}
	entries, err := os.ReadDir(u.dir)
	if err != nil {
		return nil // it is there as long as we are in it
	}
	for _, e := range entries {
		if n, ok := numberOf(e.Name()); ok && e.IsDir() {
			all = append(all, u.Group(n))
		}
	}
	return all
}

// Group of a generation, whether or not there is one yet.
func (u *Unit) Group(generation int) *Group {
	return &Group{unit: u, number: generation, dir: filepath.Join(u.dir, prefix+strconv.Itoa(generation))}
}

// enable hands a controller down to the groups within. Before that no process may be left
// in the unit's own (no internal processes), so this one goes to a group of its own.
func (u *Unit) enable(controller string) error {
	file := filepath.Join(u.dir, "cgroup.subtree_control")
	if has(file, controller) {
		return nil
	}
	if !has(filepath.Join(u.dir, "cgroup.controllers"), controller) {
		return fmt.Errorf("cgroup %s: version 2 has no controller %s here", u.dir, controller)
	}
	own := filepath.Join(u.dir, leaf)
	if err := os.Mkdir(own, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := write(own, "cgroup.procs", "0"); err != nil { // 0 is the writer
		return err
	}
	return write(u.dir, "cgroup.subtree_control", "+"+controller)
}

// Vacate takes back what was handed down to the groups within, so that systemd can start
// a process in the unit's own again. The limits of the groups are off until the next
// launcher sets them.
func (u *Unit) Vacate() error {
	if !u.Delegated() {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(u.dir, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	for _, controller := range strings.Fields(string(text)) {
		err = errors.Join(err, write(u.dir, "cgroup.subtree_control", "-"+controller))
	}
	return err
}

// has says whether a file that lists words has one.
func has(file, word string) bool {
	text, err := os.ReadFile(file)
	return err == nil && slices.Contains(strings.Fields(string(text)), word)
}

// processes lists those of a group itself.
func processes(dir string) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	return parsePIDs(string(text)), nil
}

// write writes in one call, as the kernel wants it.
func write(dir, file, text string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

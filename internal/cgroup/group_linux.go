package cgroup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/process"
)

// Group is that of one generation.
type Group struct {
	unit   *Unit
	number int
	dir    string
}

// Number of its generation.
func (g *Group) Number() int { return g.number }

// Make makes it, if it is not there, and returns the file in which a process that writes 0
// puts itself into it.
func (g *Group) Make() (join string, err error) {
	if err := os.Mkdir(g.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return filepath.Join(g.dir, "cgroup.procs"), nil
}

// Limit bounds the memory of all its processes together: when they reach it and nothing
// can be reclaimed the kernel kills one of them.
func (g *Group) Limit(bytes uint64) error {
	if err := g.unit.enable("memory"); err != nil {
		return err
	}
	return write(g.dir, "memory.max", strconv.FormatUint(bytes, 10))
}

// Processes are those in it, and in groups that they have made within.
func (g *Group) Processes() (pids []int, err error) {
	err = filepath.WalkDir(g.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err != nil || !d.IsDir() {
			return err
		}
		within, err := processes(path)
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, fs.ErrNotExist) { // it is of threads; likewise
			return nil
		}
		pids = append(pids, within...)
		return err
	})
	return pids, err
}

// Kill kills all of them, those that are being forked too: cgroup.kill of Linux 5.14, and
// one after the other where it is missing.
func (g *Group) Kill() error {
	err := write(g.dir, "cgroup.kill", "1")
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	pids, err := g.Processes()
	for _, pid := range pids {
		err = errors.Join(err, g.signal(pid, syscall.SIGKILL))
	}
	return err
}

// signal sends a signal to a process, unless that is in the group no more.
func (g *Group) signal(pid int, sig syscall.Signal) error {
	m, ok, err := process.MarkOf(pid)
	if err != nil || !ok || !g.holds(pid) { // asked behind the mark, which names who is asked about
		return err
	}
	return m.Signal(sig)
}

func (g *Group) holds(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return false
	}
	for _, p := range parsePlaces(string(text)) {
		if p.v2 && strings.Contains(p.path+"/", "/"+g.unit.Name()+"/"+filepath.Base(g.dir)+"/") {
			return true
		}
	}
	return false
}

func ignoring(err, usual error) error {
	if errors.Is(err, usual) {
		return nil
	}
	return err
}

// End ends what is left in it, and takes it away: TERM, KILL after the grace or when ctx
// ends, and cgroup.kill as long as there is somebody.
func (g *Group) End(ctx context.Context, grace time.Duration) error {
	pids, err := g.Processes()
	for _, pid := range pids {
		err = errors.Join(err, g.signal(pid, syscall.SIGTERM))
	}
	ended := ctx.Done()
	late := time.NewTimer(grace)
	defer late.Stop()
	var limit time.Time // zero: nobody is killed yet
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if removed := g.Remove(); removed == nil || !errors.Is(removed, unix.EBUSY) || !limit.IsZero() && time.Now().After(limit) {
			return errors.Join(err, removed)
		}
		select {
		case <-time.After(pause):
			if limit.IsZero() {
				continue
			}
		case <-late.C:
		case <-ended:
			ended = nil
		}
		if limit.IsZero() {
			limit = time.Now().Add(killTime)
		}
		err = errors.Join(err, g.Kill())
	}
}

// killTime is more than the kernel takes to end a process that can be ended.
const killTime = 5 * time.Second

// Remove takes it away, with the groups within; EBUSY as long as it has a process.
func (g *Group) Remove() error {
	var dirs []string
	err := filepath.WalkDir(g.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return ignoring(err, fs.ErrNotExist)
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- { // those within first
		err = ignoring(unix.Rmdir(dirs[i]), unix.ENOENT)
	}
	return err
}

// Figures of its processes. What it does not tell is 0.
func (g *Group) Figures() (f Figures) {
	if text, err := os.ReadFile(filepath.Join(g.dir, "memory.current")); err == nil {
		f.Memory, _ = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64) // the kernel's own words
	}
	if text, err := os.ReadFile(filepath.Join(g.dir, "cpu.stat")); err == nil {
		f.CPU = parseCPU(string(text))
	}
	return f
}

// Kills are those in it; where its memory is not counted, those in the unit's own group,
// whose memory systemd has counted; false where neither is.
func (g *Group) Kills() (Kills, bool) {
	for _, dir := range []string{g.dir, g.unit.dir} {
		if text, err := os.ReadFile(filepath.Join(dir, "memory.events")); err == nil {
			return parseKills(string(text)), true
		}
	}
	return Kills{}, false
}

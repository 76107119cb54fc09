package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// size is what processes hold resident, in units of 10^6 bytes: rss counts a page
// once in each process that maps it, pss divides it among them, so that the sum
// over processes is what they take together.
type size struct{ rss, pss float64 }

func (s size) plus(o size) size { return size{s.rss + o.rss, s.pss + o.pss} }

// footprint is a launcher and all that it has started.
type footprint struct {
	launcher, workers size
	strangers         int // processes besides that ran the same executables: pss is too small by their shares
}

func (f footprint) all() size { return f.launcher.plus(f.workers) }

// measure reads the footprint of a side that runs.
func measure(s side) (footprint, error) {
	var f footprint
	all, err := s.processes()
	if err != nil {
		return f, err
	}
	for i, p := range all {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid))
		if err != nil {
			return f, err
		}
		got, err := rollup(string(text))
		if err != nil {
			return f, fmt.Errorf("/proc/%d/smaps_rollup: %w", p.pid, err)
		}
		if i == 0 {
			f.launcher = got
		} else {
			f.workers = f.workers.plus(got)
		}
	}
	f.strangers = strangers(all)
	return f, nil
}

// strangers counts the other processes that run an executable which one of these
// runs.
func strangers(ours []process) int {
	executables, pids := map[string]bool{}, map[string]bool{}
	for _, p := range ours {
		pids[strconv.Itoa(p.pid)] = true
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.pid)); err == nil {
			executables[exe] = true
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil || pids[e.Name()] {
			continue
		}
		exe, err := os.Readlink("/proc/" + e.Name() + "/exe")
		if err == nil && executables[exe] { // an error: it has ended, or is not ours to look at
			n++
		}
	}
	return n
}

// rollup reads the text of smaps_rollup (Documentation/ABI/testing/procfs-smaps_rollup
// in the kernel's sources: "kB" there is 1024 bytes).
func rollup(text string) (size, error) {
	var s size
	found := 0
	for line := range strings.Lines(text) {
		for key, into := range map[string]*float64{"Rss:": &s.rss, "Pss:": &s.pss} {
			rest, ok := strings.CutPrefix(line, key)
			if !ok {
				continue
			}
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				return s, err
			}
			*into = float64(kib) * 1024 / 1e6
			found++
		}
	}
	if found != 2 {
		return s, errors.New("no line Rss, or none Pss")
	}
	return s, nil
}

// process is one, told from a later one of the same pid by when it began.
type process struct {
	pid   int
	began string // clock ticks since boot, as the kernel writes them
}

// tree is a process and all its descendants, itself first. Descendants that left
// their parent (a daemon's parent has ended) are not among them.
func tree(pid int) ([]process, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	_, began, err := parseStat(string(stat))
	if err != nil {
		return nil, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	all := []process{{pid, began}}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	for _, task := range tasks { // a child belongs to the thread that made it
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // the thread has ended
		}
		if err != nil {
			return nil, err
		}
		for field := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return nil, err
			}
			below, err := tree(child)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				continue // it has ended since
			}
			if err != nil {
				return nil, err
			}
			all = append(all, below...)
		}
	}
	return all, nil
}

// parseStat reads the state and the start of a process (proc_pid_stat(5), fields 3
// and 22). The name before them may hold blanks and parentheses.
func parseStat(text string) (state, began string, err error) {
	i := strings.LastIndexByte(text, ')')
	fields := strings.Fields(text[i+1:])
	if i < 0 || len(fields) < 20 {
		return "", "", errors.New("too few fields")
	}
	return fields[0], fields[19], nil
}

// alive tells whether the process still runs; one that has ended and waits for its
// parent does not.
func (p process) alive() bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return false
	}
	state, began, err := parseStat(string(text))
	return err == nil && began == p.began && state != "Z" && state != "X"
}

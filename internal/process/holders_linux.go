package process

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Holders lists the processes of the machine, ourselves, our ancestors and what Again has
// started left out, that have one of these socket inodes open, by pid. An ancestor is a
// service manager, that gave a socket or keeps it for us, or who started us; never what a
// worker left. A process that we may not look into (see [Process.Holds]) is skipped; an
// error means that one could not look at all, and comes with those that were found.
func Holders(inodes map[uint64]bool) ([]Holder, error) {
	all, ours, err := ourselves.among(scanProcesses)
	errs := []error{err}
	var found []Holder
	above := ancestors(all)
	for pid, s := range all {
		if pid == os.Getpid() || above[pid] || ours[s.group] {
			continue
		}
		holds, err := holdsOne(pid, inodes)
		if holds {
			found = append(found, Holder{PID: pid, Name: nameOf(pid)})
		}
		if !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM) {
			errs = append(errs, err)
		}
	}
	slices.SortFunc(found, func(a, b Holder) int { return a.PID - b.PID })
	return found, errors.Join(errs...)
}

// ancestors are this process's parent, that one's and so on, and pid 1, where the kernel
// shows no more than that.
func ancestors(all map[int]stat) map[int]bool {
	above := map[int]bool{1: true}
	for pid := os.Getppid(); pid > 1 && !above[pid]; pid = all[pid].parent {
		above[pid] = true
	}
	return above
}

// EndHolder sends sig to the process if it holds one of these sockets now: it is
// looked at once more while a pidfd(2) names it, so that no process is hit which
// merely inherited the number. nil when it is gone or holds none of them any more.
func EndHolder(pid int, inodes map[uint64]bool, sig syscall.Signal) error {
	if pid <= 1 || pid == os.Getpid() || pid == os.Getppid() {
		return fmt.Errorf("signal process %d: not one of the others", pid)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd of process %d: %w", pid, err)
	}
	defer unix.Close(fd) // nothing is buffered in it
	holds, err := holdsOne(pid, inodes)
	if !holds {
		return err
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return nil
}

// holdsOne: the process has one of these sockets open. An error means that none
// was found where one could look.
func holdsOne(pid int, inodes map[uint64]bool) (holds bool, err error) {
	err = eachSocket(pid, func(inode uint64, _ place) bool {
		holds = inodes[inode]
		return !holds
	})
	if holds || err == nil {
		return holds, nil
	}
	return false, fmt.Errorf("sockets of process %d: %w", pid, err)
}

func nameOf(pid int) string {
	comm, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm") // gone meanwhile: the pid says enough
	return strings.TrimSuffix(string(comm), "\n")
}

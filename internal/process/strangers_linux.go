package process

import (
	"bytes"
	"os"
	"strconv"
)

// Strangers are those of pids that run, and are neither this process nor of the known: in
// the process group of one of them, or a descendant of one that is. Who cannot be looked
// at is left out.
func Strangers(pids []int, known []Mark) (strangers []Mark) {
	c := census{main: map[int]int{}, group: map[int]int{}, seen: map[int]seat{}}
	for i, m := range known {
		c.main[m.PID], c.group[m.Group] = i, i
	}
	c.all, _ = scanProcesses() // documented
	for _, pid := range pids {
		if pid == os.Getpid() || c.seat(pid, 0).taken {
			continue
		}
		if m, ok, err := MarkOf(pid); err == nil && ok {
			strangers = append(strangers, m)
		}
	}
	return strangers
}

// Variable is what a process's environment said of a name when its program began; ""
// where it said nothing, or this process may not look (ptrace(2)).
func Variable(pid int, name string) string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return ""
	}
	for kv := range bytes.SplitSeq(text, []byte{0}) {
		if value, ok := bytes.CutPrefix(kv, []byte(name+"=")); ok {
			return string(value)
		}
	}
	return ""
}

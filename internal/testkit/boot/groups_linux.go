package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// hierarchies of control groups in which systemd keeps units, as lines of
// /proc/self/cgroup name them behind their number, and where they are mounted.
var hierarchies = []struct{ name, mounted string }{
	{"::", "/sys/fs/cgroup"},
	{"::", "/sys/fs/cgroup/unified"},
	{":name=systemd:", "/sys/fs/cgroup/systemd"},
}

// groups has the machine begin in control groups of its own. Without them two machines
// would have the same groups, units of one name included: each takes away those of the
// other that have no process yet, who is then not started (219/CGROUP). leave takes them
// away once the machine is off.
func (m *machine) groups(cmd *exec.Cmd) (leave func(), err error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var dirs []string
	leave = func() {
		for _, dir := range dirs {
			removeGroup(dir)
		}
	}
	second := false // version 2 is among them
	for _, h := range hierarchies {
		if _, err := os.Stat(h.mounted + "/cgroup.procs"); err != nil {
			continue // version 1 has a directory of hierarchies there
		}
		for line := range strings.Lines(string(text)) {
			number, path, ok := strings.Cut(strings.TrimSpace(line), h.name)
			if !ok || strings.Contains(number, ":") {
				continue
			}
			dir := filepath.Join(h.mounted, path, m.name)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				leave()
				return nil, err
			}
			dirs = append(dirs, dir)
			second = second || h.name == "::"
		}
	}
	if len(dirs) == 0 || m.Unified && !second {
		leave()
		return nil, fmt.Errorf("no control groups that systemd could have are mounted:\n%s", text)
	}
	m.enter(cmd, dirs)
	return leave, nil
}

// enter has a shell enter the groups before it becomes the command: what the kernel
// offers for that knows version 2 alone.
func (m *machine) enter(cmd *exec.Cmd, dirs []string) {
	const script = `while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit; shift; done; shift; exec "$@"`
	words := append([]string{"sh", "-c", script, "sh"}, dirs...)
	words = append(append(words, "--", cmd.Path), cmd.Args[1:]...)
	cmd.Path, cmd.Args = "/bin/sh", words
	if m.Unified {
		cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	}
}

// removeGroup removes a control group and those within. It waits a second for processes
// that are on their way out.
func removeGroup(dir string) {
	for limit := time.Now().Add(time.Second); time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
		var dirs []string
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			_ = syscall.Rmdir(dirs[i]) // tried again as long as one is there
		}
		if len(dirs) == 0 {
			return
		}
	}
}

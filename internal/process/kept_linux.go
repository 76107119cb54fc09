package process

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// content tells whether a file was written into. The time of the last change of the
// inode is not in it: a rename over it, a link to it and a chmod(1) move that too.
type content struct {
	size     int64
	modified unix.Timespec
}

func contentOf(st *unix.Stat_t) content { return content{st.Size, st.Mtim} }

// ran notes what was executed first. Between Resolve and that the file may still have
// been written, which a start waits for; while it is executed, the kernel lets nobody
// write into a program.
func (r *Release) ran() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var st unix.Stat_t
	// It can fail for a closed release only, which nobody starts again.
	if !r.hasRun && unix.Fstat(r.exeFD, &st) == nil {
		r.hasRun, r.was = true, contentOf(&st)
	}
}

// Kept tells what a start of this release would bring back by now. An error says that
// it would be something else: the executable was written into since it first ran (or
// since Resolve, when it never did), which being held open does not prevent. Its size
// and its time of modification tell, so a touch(1) counts as well.
//
// words are empty when all of it would be as it was, and otherwise a phrase for a log:
// "only the directory and the environment: app is interpreted by python3". What
// an interpreter reads besides, and what a program finds in its directory, nobody
// holds.
func (r *Release) Kept() (words string, err error) {
	removed, err := r.compare()
	if err != nil {
		// Not by its path, where a link may lead to another release by now.
		return "", fmt.Errorf("exec %s: %w", r.real, err)
	}
	why := r.interpreted()
	switch {
	case why == "" && !removed:
		return "", nil
	case why == "":
		return "all but the directory, which was removed", nil
	case removed:
		return "only the environment: the directory was removed, and " + why, nil
	}
	return "only the directory and the environment: " + why, nil
}

// compare looks at what is held open. removed: the directory was; it can still be
// entered, but nothing is in it, or ever will be.
func (r *Release) compare() (removed bool, err error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.exeFD < 0 {
		return false, errors.New("the release is closed")
	}
	var st unix.Stat_t
	if err := unix.Fstat(r.exeFD, &st); err != nil {
		return false, err
	}
	if now := contentOf(&st); now != r.was {
		return false, errors.New(r.changed(now))
	}
	if r.wdFD < 0 {
		return false, nil
	}
	err = unix.Fstat(r.wdFD, &st)
	return err == nil && st.Nlink == 0, err
}

// changed says how the file differs from what it was.
func (r *Release) changed(now content) string {
	since := "since it was resolved"
	if r.hasRun {
		since = "since it first ran"
	}
	if now.size != r.was.size {
		return fmt.Sprintf("the file was written into %s: %d bytes then, %d now", since, r.was.size, now.size)
	}
	at := func(c content) string { return time.Unix(c.modified.Unix()).Format(time.RFC3339) }
	return fmt.Sprintf("the file was written into %s: modified %s then, %s now", since, at(r.was), at(now))
}

// interpreted says why the executable is not the whole program; "" when it is.
func (r *Release) interpreted() string {
	for _, path := range []string{r.path, r.real} {
		if name := filepath.Base(path); interprets(name) {
			return name + " runs what lies on disk now"
		}
	}
	head, err := r.head()
	line, script := bytes.CutPrefix(head, []byte("#!"))
	if err != nil || !script {
		return "" // what the launcher may not read is no script: its interpreter could not either
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	why := filepath.Base(r.path) + " is interpreted by " + interpreterOf(strings.Fields(string(line)))
	if !r.at(r.path) && !r.at(r.real) {
		// Whatever it looks for beside itself, it does not find there.
		why += ", under the name /dev/fd/N as its file is no longer where it was"
	}
	return why
}

// at: the executable still lies there.
func (r *Release) at(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && uint64(st.Dev) == r.dev && st.Ino == r.ino
}

// interpreterOf is "python3" of #!/usr/bin/env -S A=b python3 -u.
func interpreterOf(words []string) string {
	if len(words) == 0 {
		return "nothing"
	}
	name := filepath.Base(words[0])
	if name == "env" {
		for _, word := range words[1:] {
			if !strings.HasPrefix(word, "-") && !strings.Contains(word, "=") {
				return filepath.Base(word)
			}
		}
	}
	return name
}

// interprets tells whether a program of that name, with a version behind it or not,
// runs another than its own text.
func interprets(name string) bool {
	return slices.Contains([]string{
		"node", "nodejs", "bun", "deno", "python", "pypy", "ruby", "perl", "php", "java", "dotnet", "mono", "erl", "beam.smp",
		"lua", "luajit", "tclsh", "guile", "Rscript",
		"sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "busybox", "fish",
		"env", "nice", "ionice", "chrt", "taskset", "numactl", "setpriv", "setsid", "stdbuf", "chroot", "unshare", "nsenter",
		"sudo", "su", "doas", "gosu", "su-exec", "runuser", "chpst", "envdir", "tini", "dumb-init", "catatonit", "strace",
	}, strings.TrimRight(name, "0123456789.-"))
}

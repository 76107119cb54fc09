package process

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// job runs a shell script to its end.
func job(ctx context.Context, t *testing.T, script string, args ...string) (string, error) {
	t.Helper()
	r := resolve(t, Command{Exec: append([]string{"sh", "-c", script, "sh"}, args...)})
	return Run(ctx, Job{Release: r, Env: r.Env()})
}

func TestAJobTellsHowItEndedAndWhatItSaid(t *testing.T) {
	long := strings.Repeat("x", 3*lastWords)
	for _, c := range []struct{ script, said, err string }{
		{"true", "", ""},
		{"echo one; echo two >&2", "one\ntwo", ""},
		{"exit 3", "", "exit status 3"},
		{"echo one; echo two; echo; exit 3", "one\ntwo", "exit status 3: two"},
		{"kill -TERM $$", "", "signal: terminated"},
		{`printf 'a\377z'`, "a?z", ""},
		{"echo " + long, long[:lastWords-1], ""}, // and a newline
	} {
		said, err := job(t.Context(), t, c.script)
		switch {
		case said != c.said:
			t.Errorf("%.40s: said %.40q, want %.40q", c.script, said, c.said)
		case c.err == "" && err != nil, c.err != "" && (err == nil || err.Error() != c.err):
			t.Errorf("%.40s: error %v, want %q", c.script, err, c.err)
		}
	}
}

func TestAJobsInputIsThereWhetherItIsReadOrNot(t *testing.T) {
	input := bytes.Repeat([]byte("0123456789abcdef"), 1<<14) // four times what a pipe holds
	for _, c := range []struct{ script, want string }{
		{"wc -c", strconv.Itoa(len(input))},
		{"head -c 4", "0123"},
		{"echo unread", "unread"},
	} {
		r := resolve(t, Command{Exec: []string{"sh", "-c", c.script}})
		said, err := Run(t.Context(), Job{Release: r, Env: r.Env(), Input: input})
		if said != c.want || err != nil {
			t.Errorf("%s: said %q, %v; want %q", c.script, said, err, c.want)
		}
	}
	if said, err := job(t.Context(), t, "wc -c"); said != "0" || err != nil {
		t.Errorf("without an input it found %q, %v", said, err)
	}
}

// pidIn reads the pid that a script writes to a file, once it is there.
func pidIn(t *testing.T, file string) int {
	t.Helper()
	var pid int
	eventually(t, "a pid in "+file, func() bool {
		b, err := os.ReadFile(file)
		if err != nil || !bytes.HasSuffix(b, []byte("\n")) {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil
	})
	return pid
}

// gone waits for the end of a process.
func gone(t *testing.T, pid int) {
	t.Helper()
	eventually(t, "the end of "+strconv.Itoa(pid), func() bool {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err != nil || bytes.Contains(b, []byte(") Z "))
	})
}

func TestAJobWhoseTimeIsUpEndsWithItsGroup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	late := errors.New("too late")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	go func() { // ends with the job
		pidIn(t, file)
		cancel(late)
	}()
	said, err := job(ctx, t, `echo begun; trap '' TERM; (trap '' TERM; sleep 600) & echo $! >"$1"; wait`, file)
	if said != "begun" || !errors.Is(err, late) {
		t.Errorf("it said %q and ended with %v, want begun and %v", said, err, late)
	}
	gone(t, pidIn(t, file))
}

func TestAJobDoesNotWaitForWhatItLeaves(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	for _, c := range []struct {
		name, script string
		outlives     bool
	}{
		{"its group", `sleep 600 & echo $! >"$1"; echo done`, false},
		{"its own session", `setsid sh -c 'echo $$ >"$1"; exec sleep 600' sh "$1" & until [ -s "$1" ]; do sleep 0.01; done; echo done`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_ = os.Remove(file) // of the case before
			begin := time.Now()
			said, err := job(t.Context(), t, c.script, file)
			if said != "done" || err != nil {
				t.Errorf("it said %q, %v", said, err)
			}
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			pid := pidIn(t, file)
			if c.outlives {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Errorf("what has left the group: %v", err)
				}
			}
			gone(t, pid)
		})
	}
}

func TestAJobGetsNoDescriptorOfOurs(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	// Even one that somebody forgot to close on exec.
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, w.Fd(), syscall.F_SETFD, 0); errno != 0 {
		t.Fatal(errno)
	}
	said, err := job(t.Context(), t, `for n in $(seq 0 100); do if [ -e /proc/$$/fd/$n ]; then echo $n; fi; done`)
	if said != "0\n1\n2" || err != nil || w.Fd() > 100 {
		t.Errorf("open in the job: %q, %v; want 0, 1, 2", said, err)
	}
}

func TestAJobKeepsNoPidfdOfWhatItLeft(t *testing.T) {
	count := func() (n int) {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); to == "anon_inode:[pidfd]" {
				n++
			}
		}
		return n
	}
	runtime.GC() // those of other tests
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	before := count()
	for range 10 { // whether those that are killed are gone by then is chance
		if _, err := job(t.Context(), t, "for n in 1 2 3 4; do sleep 600 & done"); err != nil {
			t.Fatal(err)
		}
	}
	if after := count(); after > before {
		t.Errorf("%d pidfds are open, %d were", after, before)
	}
}

func TestStartedIsCalledOnceWhateverComesOfIt(t *testing.T) {
	empty := resolve(t, Command{Exec: []string{write(t, filepath.Join(t.TempDir(), "empty"), "", 0o755)}})
	for _, c := range []struct {
		r    *Release
		runs bool
	}{
		{resolve(t, Command{Exec: []string{"true"}}), true},
		{empty, false},
	} {
		var told []*Process
		_, err := Run(t.Context(), Job{Release: c.r, Started: func(p *Process) { told = append(told, p) }})
		if len(told) != 1 || (told[0] != nil) != c.runs || (err == nil) != c.runs {
			t.Errorf("%s: told %v, error %v", c.r.Path(), told, err)
		}
	}
}

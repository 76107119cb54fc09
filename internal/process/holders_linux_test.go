package process

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// holders are the others that have the socket open.
func holders(t *testing.T, inode uint64) []Holder {
	t.Helper()
	list, err := Holders(map[uint64]bool{inode: true})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// A daemon leaves the worker's group and session, its parent ends, and the socket
// goes on being held by a process that is nobody's.
func TestADaemonThatKeptTheSocketIsFoundAndEnded(t *testing.T) {
	mine, inode := socket(t)
	p := start(t, resolve(t, Command{Exec: []string{"sh", "-c", "setsid sleep 1000 & echo $!"}}),
		func(s *Spec) { s.Files = []int{mine} })
	daemon := p.number(t)
	t.Cleanup(func() { EndHolder(daemon, map[uint64]bool{inode: true}, syscall.SIGKILL) })
	p.ended(t)
	want := []Holder{{PID: daemon, Name: "sleep"}}
	eventually(t, "the daemon is what it will be", func() bool { return slices.Equal(holders(t, inode), want) })
	if p.Group() || p.Contains(daemon) {
		t.Fatal("it is still the worker's: this shows nothing")
	}
	if err := EndHolder(daemon, map[uint64]bool{inode: true}, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nobody but ourselves holds the socket", func() bool { return len(holders(t, inode)) == 0 })
	if err := EndHolder(daemon, map[uint64]bool{inode: true}, syscall.SIGTERM); err != nil {
		t.Errorf("one that is gone: %v", err)
	}
}

// What Again has started is this program, with what this one has: for as long as any of it
// is there, and no longer.
func TestWhatIsStartedAgainHoldsNothingOfOthers(t *testing.T) {
	mine, inode := socket(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	n := int(null.Fd())
	p, err := Again(nil, append(os.Environ(), behaviour+"=wait"), n, n, n, mine)
	if err != nil {
		t.Fatal(err)
	}
	holds := func(pid int) bool {
		held, err := holdsOne(pid, map[uint64]bool{inode: true})
		return held && err == nil
	}
	eventually(t, "it holds the socket", func() bool { return holds(p.PID()) })
	if list := holders(t, inode); len(list) != 0 {
		t.Errorf("%v hold it, and should be passed over", list)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	p.Forget()
	holders(t, inode)
	ourselves.mu.Lock()
	defer ourselves.mu.Unlock()
	if ourselves.all[p.PID()] {
		t.Error("its number is remembered after its end")
	}
}

func TestOnlyAHolderIsEnded(t *testing.T) {
	mine, inode := socket(t)
	_, other := socket(t)
	p := start(t, resolve(t, target(t, "wait")), func(s *Spec) { s.Files = []int{mine} })
	p.line(t)
	if list := holders(t, other); len(list) != 0 {
		t.Errorf("%v hold a socket that is ours alone", list)
	}
	if err := EndHolder(p.PID(), map[uint64]bool{other: true}, syscall.SIGKILL); err != nil {
		t.Errorf("one that does not hold it: %v", err)
	}
	if err := EndHolder(p.PID(), map[uint64]bool{other: true, inode: true}, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if s := p.ended(t); s.Signal != syscall.SIGTERM {
		t.Errorf("%v, want the end by the second signal", s)
	}
	for _, pid := range []int{os.Getpid(), os.Getppid(), 1, 0, -1} {
		if err := EndHolder(pid, map[uint64]bool{inode: true}, 0); err == nil {
			t.Errorf("signal to %d: no error", pid)
		}
	}
}

// A service manager has the sockets that it gave: it is no process left behind, and is not
// to be ended. Here the one between is a shell.
func TestHoldersLeavesOutWhoItComesFrom(t *testing.T) {
	if os.Getenv("BATON_TEST_GIVEN") != "" {
		var is syscall.Stat_t
		if err := syscall.Fstat(3, &is); err != nil {
			t.Fatal(err)
		}
		if list := holders(t, is.Ino); len(list) != 0 {
			t.Errorf("%v hold what they gave", list)
		}
		return
	}
	mine, inode := socket(t)
	fd, err := syscall.Dup(mine)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `"$0" -test.run='^TestHoldersLeavesOutWhoItComesFrom$' -test.v; exit $?`, os.Args[0])
	cmd.Env = append(os.Environ(), "BATON_TEST_GIVEN=1")
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "socket")}
	defer cmd.ExtraFiles[0].Close() // nothing is written
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("%v\n%s", err, out)
	}
	if list := holders(t, inode); len(list) != 0 {
		t.Errorf("%v are left", list)
	}
}

func TestHoldersSkipsWhoIsNotItsToLookInto(t *testing.T) {
	asRoot(t)
	mine, inode := socket(t)
	c := target(t, "wait")
	c.User = "nobody"
	theirs := start(t, resolve(t, c), func(s *Spec) { s.Files = []int{mine} })
	theirs.line(t)
	withoutPower(t, func() {
		if list, err := Holders(map[uint64]bool{inode: true}); len(list) != 0 || err != nil {
			t.Errorf("%v, %v; want none, and no error", list, err)
		}
		if err := EndHolder(theirs.PID(), map[uint64]bool{inode: true}, 0); !errors.Is(err, syscall.EACCES) {
			t.Errorf("signal to one that cannot be looked into: %v", err)
		}
	})
	if list := holders(t, inode); len(list) != 1 || list[0].PID != theirs.PID() {
		t.Errorf("%v, want %d", list, theirs.PID())
	}
}

func TestHoldersSaysWhenNoDescriptorIsFreeToLook(t *testing.T) {
	_, inode := socket(t)
	withoutDescriptors(t, func() {
		if list, err := Holders(map[uint64]bool{inode: true}); !errors.Is(err, syscall.EMFILE) {
			t.Errorf("%v, %v; want %v", list, err, syscall.EMFILE)
		}
	})
}

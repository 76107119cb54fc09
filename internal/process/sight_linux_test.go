package process

import (
	"errors"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// cannotLook checks that nothing is taken for closed that was only not seen.
func cannotLook(t *testing.T, p talk, inode uint64, want error) {
	t.Helper()
	if held, err := p.Holds(inode); held || err == nil || want != nil && !errors.Is(err, want) {
		t.Errorf("holds: %v, %v; want the error %v", held, err, want)
	}
	if all, err := p.Inodes(); all[inode] || err == nil || want != nil && !errors.Is(err, want) {
		t.Errorf("inodes: %v, %v; want the error %v", all, err, want)
	}
}

// withoutDescriptors runs what while no descriptor can be opened.
func withoutDescriptors(t *testing.T, what func()) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 0, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}()
	what()
}

func TestHoldsSaysWhenNoDescriptorIsFreeToLook(t *testing.T) {
	mine, inode := socket(t)
	p := start(t, resolve(t, target(t, "wait")), func(s *Spec) { s.Files = []int{mine} })
	p.line(t)
	withoutDescriptors(t, func() { cannotLook(t, p, inode, syscall.EMFILE) })
	if !holds(t, p, inode) {
		t.Error("not found, with descriptors to look")
	}
}

// withoutPower runs what on a thread of its own that has root's uid and none of
// its capabilities: as a launcher in a container, or one with a user of its own.
func withoutPower(t *testing.T, what func()) {
	t.Helper()
	asRoot(t)
	done := make(chan struct{})
	go func() { // ends when what has
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&head, &none[0]); err != nil {
			t.Error(err)
			return
		}
		what()
	}()
	<-done
}

func TestHoldsSaysWhenTheWorkerIsNotItsToLookInto(t *testing.T) {
	asRoot(t)
	mine, inode := socket(t)
	c := target(t, "wait")
	c.User = "nobody"
	p := start(t, resolve(t, c), func(s *Spec) { s.Files = []int{mine} })
	p.line(t)
	withoutPower(t, func() { cannotLook(t, p, inode, syscall.EACCES) })
	if !holds(t, p, inode) {
		t.Error("not found with the power to look")
	}
	p.in.Close()
	p.ended(t)
	withoutPower(t, func() {
		if held, err := p.Holds(inode); held || err != nil {
			t.Errorf("a worker that has ended: %v, %v", held, err)
		}
	})
}

func TestHoldsSaysWhenProcIsNotMounted(t *testing.T) {
	asRoot(t)
	mine, inode := socket(t)
	p := start(t, resolve(t, target(t, "wait")), func(s *Spec) { s.Files = []int{mine} })
	p.line(t)
	done := make(chan struct{})
	go func() { // ends by itself, and its thread with it
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("none", "/proc", "tmpfs", 0, ""); err != nil {
			t.Error(err)
			return
		}
		cannotLook(t, p, inode, nil)
	}()
	<-done
	if !holds(t, p, inode) {
		t.Error("not found where proc is mounted")
	}
}

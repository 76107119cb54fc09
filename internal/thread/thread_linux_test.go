package thread

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// TestMain keeps the main thread free, so that goroutines come to run on it: the tests
// are another's.
func TestMain(m *testing.M) {
	code := make(chan int)
	go func() { code <- m.Run() }()
	os.Exit(<-code)
}

// onMain runs a goroutine on the main thread, which Go then begins from.
func onMain(t *testing.T, do func()) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		done := make(chan bool)
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			main := syscall.Gettid() == os.Getpid()
			if main {
				do()
			}
			done <- main
		}()
		if <-done {
			return
		}
	}
	t.Fatal("nothing came to run on the main thread")
}

// What a thread was used for ends with it, whichever goroutine asked for that.
func TestTheThreadEndsAndIsNeverTheMainOne(t *testing.T) {
	for range 200 {
		tid := make(chan int, 1)
		var met bool
		onMain(t, func() { Go(func() { tid <- syscall.Gettid() }) })
		id := <-tid
		if id == os.Getpid() {
			t.Fatal("it is the main thread")
		}
		for end := time.Now().Add(10 * time.Second); !met && time.Now().Before(end); runtime.Gosched() {
			_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", id))
			met = os.IsNotExist(err)
		}
		if !met {
			t.Fatalf("thread %d goes on", id)
		}
	}
}

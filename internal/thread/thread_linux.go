// Package thread runs what changes its thread for good, or belongs to it: a thread's root
// directory, the processes that it traces.
package thread

import (
	"os"
	"runtime"
	"syscall"
)

// Go runs do on a thread that is its alone and ends with it, and returns at once. (A
// goroutine that ends while locked to its thread takes it along; the runtime never clones
// another from a locked one.) It is never the main thread, which cannot end and is what
// /proc/PID shows.
func Go(do func()) { go run(do, make(chan struct{})) } // ends with do, or once another has taken over

func run(do func(), begun chan<- struct{}) {
	runtime.LockOSThread()
	close(begun)
	if syscall.Gettid() != os.Getpid() {
		do()
		return
	}
	// Sitting on the main thread until the next one has another.
	other := make(chan struct{})
	go run(do, other) // ends with do
	<-other
	runtime.UnlockOSThread()
}

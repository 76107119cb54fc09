package process

import "os"

// Mark tells one process from all others that have had its number, or will.
type Mark struct {
	PID     int    `json:"pid"`
	Start   uint64 `json:"start"` // in clock ticks since the machine's start
	Parent  int    `json:"-"`
	Group   int    `json:"group"`
	Session int    `json:"session"`
}

// same says whether both are marks of one process, whatever it has changed about
// itself meanwhile.
func (m Mark) same(of Mark) bool { return m.PID == of.PID && m.Start == of.Start }

// Background is a program that is to run on without who starts it: in a session of its
// own, so that no terminal's end reaches it, with nothing on its standard input.
type Background struct {
	// Args are handed to this executable; the first is the name that it goes by.
	Args []string
	Env  []string
	Dir  string
	// Output is a descriptor for its standard output and error; Told becomes its
	// descriptor 3. No other is passed on, also none that this process was given
	// itself.
	Output, Told int
}

// Begun is what Background started, as long as this process is its parent.
type Begun struct {
	PID  int
	Done <-chan struct{} // closed when it has ended
	code int
}

// CalledAs is the name under which ps, top and pgrep list this process: what was started
// as /proc/self/exe is listed as exe. A system that does not take it lists it as it likes.
func CalledAs(name string) { _ = os.WriteFile("/proc/self/comm", []byte(name), 0) }

// Code is its exit code, 128 and the number of the signal that ended it, or -1 when
// that is not known. It waits for the end.
func (b *Begun) Code() int {
	<-b.Done
	return b.code
}

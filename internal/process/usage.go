package process

import "time"

// Usage is what a worker uses, all its processes together (see [Process.PIDs]), at
// one look.
type Usage struct {
	// Resident is the memory in RAM that its processes have mapped, in bytes. What
	// several of them share, such as what a forked child has not written to,
	// is in it several times.
	Resident uint64
	// Proportional is the same with shared pages divided among those who share them,
	// other workers and strangers included. Without Exact it is Resident where it
	// could not be told, or was not asked for: never less than it really is.
	Proportional uint64
	Exact        bool // Proportional was measured, of all its processes
	// CPU is user and system time of its processes, and of those of their children
	// that have ended and were waited for. It never falls from one look to the next;
	// what a process used that ended between two looks, and was not
	// waited for by one of the worker's own, is lost.
	CPU       time.Duration
	Processes int // that run
	Threads   int
}

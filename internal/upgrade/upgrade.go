// Package upgrade replaces the launcher by another program of its kind, in the same
// process: the new binary is proved under tableflip, and then exec'ed in place.
//
// What it keeps: until the new program has said that it can take the state up, nothing
// has happened. After that the pid, the children, the descriptors that were named and
// the signals that come meanwhile are all still there. The file that is exec'ed is the
// one that was proved, whatever lies at its path by then, and the flags of an open file
// description, which others share, are not changed.
//
// It never looks into a state, never touches what a descriptor leads to, and decides
// nothing about whether there should be an upgrade.
//
// Three processes take part. The launcher starts a helper, which is its own program
// again, since tableflip serves a process only once. The helper runs the new binary
// under tableflip as the prover, and ends when that is ready. The prover execs itself, so
// that nothing is left of what it tried out, and stays until the new program answers: it holds signals over the exec (process.HoldSignals), and says
// on the launcher's standard error when nobody answers. Helper and prover are one
// process group, no child of theirs is left, and the launcher has reaped the helper
// before Prove returns; the prover is reaped by whoever gets orphans, which is the
// launcher itself where it is PID 1 or a subreaper.
package upgrade

import (
	"context"
	"io"
	"os"
	"time"

	"baton/internal/keep"
)

// The hidden commands, argv[1] as that of the shim.
const (
	helperCommand = "__upgrade"
	proverCommand = "__prove"
	watchCommand  = "__watch" // what the prover becomes; with the numbers of two descriptors, and what Check returned
)

// variable tells the new program the number of the descriptor with what it is to take
// up. Main removes it.
const variable = "BATON_UPGRADE"

// DefaultTimeout is how long a proof may take.
const DefaultTimeout = 30 * time.Second

// Prover is what the launcher gives to Main, for when this process proves it.
type Prover struct {
	// Version is told to the launcher.
	Version string
	// Check says why this program cannot take up the state, if so. The files are for it
	// to look at and to take. What it leaves open or running ends with it, and before
	// the launcher execs. what goes to Answers.
	Check func(state []byte, files *keep.Files) (what string, err error)
	// Answers asks the new program whether it serves; it is called until it says nil. The
	// process has begun afresh since Check: what is all that it knows from there.
	Answers func(ctx context.Context, what string) error
	// Patience is how long that may take from the moment that signals are caught; 0: a
	// minute.
	Patience time.Duration
}

// Options are one proof.
type Options struct {
	Path  string // of the new program
	State []byte
	Files *keep.Files // stay their owners'
	// Env of the prover; nil: this process's.
	Env     []string
	Timeout time.Duration // 0: DefaultTimeout
	// Warn is told of what was not as it should be and did not stand in the way; nil:
	// nobody is.
	Warn func(error)
}

// Resumed is what the program that became this one left to it; ok is false when this
// process was started like any other. It is there once. The state is taken up, the
// files are the caller's to take or to close, each of them close-on-exec.
//
// Signals are held until process.Catch is called, so that should be soon.
func Resumed() (state []byte, files *keep.Files, ok bool, err error) {
	if resumed == nil {
		return nil, nil, false, nil
	}
	take := resumed
	resumed = nil
	state, files, err = take()
	return state, files, true, err
}

// resumed is set by Main in a program that took another's place.
var resumed func() (state []byte, files *keep.Files, err error)

// Main plays the helper or the prover, and never returns, if this process was started
// as one. Call it first in main, after process.Main. Otherwise it only hides from the
// environment what Resumed needs.
func Main(p Prover) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case helperCommand:
			end(helper())
		case proverCommand:
			end(p.prove())
		case watchCommand:
			end(p.watch())
		}
	}
	if value, ok := os.LookupEnv(variable); ok {
		_ = os.Unsetenv(variable) // fails for a bad name only
		resumed = func() ([]byte, *keep.Files, error) { return resume(value) }
	}
}

// end leaves without what os.Exit does under the race detector, which takes a second.
func end(err error) {
	if err == nil {
		exit(0)
	}
	_, _ = io.WriteString(os.Stderr, "baton: "+err.Error()+"\n") // the last that can be done
	exit(1)
}

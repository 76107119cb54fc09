// Package control is the control socket: HTTP and JSON over a Unix socket, by
// which one launcher is asked how it is and told what to do. It has both ends, and
// it knows where the sockets of all launchers lie, so that there is no daemon above
// them.
//
// The invariant: whoever is at the other end, and whatever he sends or does not
// send, the engine never waits for him, he never holds more than his share of the
// launcher, and nobody but root and the launcher's own user is listened to at all.
// The package decides nothing: a request becomes one call of Engine, whose answer
// becomes the response.
package control

import "baton/internal/event"

// Engine is what a Server serves. All of it may be called at any time, from any
// goroutine, also when the engine has ended.
type Engine interface {
	// Report is the present state; nil when the engine has ended.
	Report() *event.Report
	// Glance is Report without what workers use.
	Glance() *event.Report
	// Reload asks for a swap; done gets the one verdict on it, unless the engine
	// ends first. With ifGeneration other than 0 it is superseded unless that
	// generation serves.
	Reload(ifGeneration int, done func(event.Verdict))
	// Rollback is a Reload to what served before.
	Rollback(done func(event.Verdict))
	// Promote ends a canary or a bake now, for the newcomer; with step it goes only
	// on to the canary's next step.
	Promote(step bool) error
	// Abort ends a canary or a bake now, for who served before.
	Abort() error
	// Scale sets the number of workers to n, or with relative changes it by n, and
	// returns what it is then.
	Scale(n int, relative bool) (workers int, err error)
	Stop() // gracefully
	End()  // now
	// Ended is closed when the engine has ended. Every done that is to be called
	// has been by then.
	Ended() <-chan struct{}
}

// The outcomes of an event.Verdict.
const (
	Swapped    = "swapped"
	RolledBack = "rolled back"
	Refused    = "refused"
	Superseded = "superseded"
	Stopped    = "stopped"
)

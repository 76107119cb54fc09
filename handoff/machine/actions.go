package machine

import "time"

// Action is something to be done, in the order given.
type Action interface{ isAction() }

type (
	// Prepare resolves configuration and release afresh and binds new
	// listeners; Prepared or Refused answers, and Halt waits for it.
	Prepare struct{ Gen Generation }
	// Forget lets go of a generation's release and of listeners that only it
	// had. Nothing of it is left.
	Forget struct{ Gen Generation }
	// Start starts a worker of the generation's release on the slot;
	// BecameReady, Unstartable or Exited follow.
	Start struct {
		Worker Worker
		Gen    Generation
		Index  int
		Slot   Slot
		Role   Role
	}
	// Probe asks whether the worker serves, in isolation; Probed answers.
	Probe struct{ Worker Worker }
	// Steer sends all new connections to these slots from this instant on;
	// Steered or Unsteered answers.
	Steer struct{ Table []Share }
	// Refuse lets no new connection reach the slot; those it has stay.
	Refuse struct{ Slot Slot }
	// Watch takes note of the handshakes half open now and follows the slot's
	// queue; Stranded may, Quiet will follow. It ends with Quiet, with a later
	// Watch of the slot, or with Halt. An Orphan has no worker: what turns up
	// there late finds nobody, so its handshakes are waited for until they are
	// all gone.
	Watch struct {
		Slot   Slot
		Orphan bool
	}
	// WatchIdle waits until the worker has no connection; Idle answers. It ends
	// with the worker.
	WatchIdle struct{ Worker Worker }
	// Signal sends the generation's drain signal to the worker's processes.
	Signal struct{ Worker Worker }
	// Kill ends the worker's processes now.
	Kill struct{ Worker Worker }
	// SetTimer starts a timer; Fired answers.
	SetTimer struct {
		Timer Timer
		After time.Duration
	}
	// ExtendTimer makes a running timer fire not before After from now.
	ExtendTimer struct {
		Timer Timer
		After time.Duration
	}
	// StopTimer ends a timer that has not fired.
	StopTimer struct{ Timer Timer }
	// Verdict is the one answer to a Reload.
	Verdict struct {
		Request Request
		Gen     Generation // 0 when none was begun
		Outcome Outcome
		Reason  string
	}
	// Note is a transition, for the log.
	Note struct {
		Kind   NoteKind
		Gen    Generation
		Worker Worker // 0: the generation as a whole
		Slot   Slot
		Delay  time.Duration
		Reason string
	}
	// Halt ends the launcher: nothing is left. A Failure says that it stops
	// because no generation could be brought to serve.
	Halt struct{ Failure string }
)

func (Prepare) isAction()     {}
func (Forget) isAction()      {}
func (Start) isAction()       {}
func (Probe) isAction()       {}
func (Steer) isAction()       {}
func (Refuse) isAction()      {}
func (Watch) isAction()       {}
func (WatchIdle) isAction()   {}
func (Signal) isAction()      {}
func (Kill) isAction()        {}
func (SetTimer) isAction()    {}
func (ExtendTimer) isAction() {}
func (StopTimer) isAction()   {}
func (Verdict) isAction()     {}
func (Note) isAction()        {}
func (Halt) isAction()        {}

// Outcome is the verdict on a reload.
type Outcome string

// The verdicts.
const (
	Swapped    Outcome = "swapped"     // the newcomer serves
	RolledBack Outcome = "rolled back" // the newcomer failed; who served before goes on
	Unfit      Outcome = "refused"     // nothing was started
	Superseded Outcome = "superseded"  // a later reload took its place
	Stopped    Outcome = "stopped"     // the launcher is stopping
)

// NoteKind names a transition.
type NoteKind string

// The transitions that Notes tell of.
const (
	NoteStarting   NoteKind = "starting"
	NoteServing    NoteKind = "serving"
	NoteStandby    NoteKind = "standby"
	NoteRolledBack NoteKind = "rolledback"
	NoteDraining   NoteKind = "draining"
	NoteGone       NoteKind = "gone"
	NoteCrashed    NoteKind = "crashed"
	NoteRestarting NoteKind = "restarting"
	NoteLeft       NoteKind = "left"
	NoteEmptying   NoteKind = "emptying"
	NoteAbandoned  NoteKind = "abandoned"
	NoteExited     NoteKind = "exited"
	NoteLate       NoteKind = "late" // a queue did not empty, or a signal was not obeyed, in time
	NoteStopping   NoteKind = "stopping"
)

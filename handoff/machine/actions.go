package machine

import "time"

// Action is something to be done, in the order given.
type Action interface{ isAction() }

type (
	// Prepare resolves configuration and release afresh and binds new
	// listeners; Prepared or Refused answers, and Halt waits for it. From is the
	// generation whose release is to be started again as it was; 0: what is
	// configured now.
	Prepare struct{ Gen, From Generation }
	// Forget lets go of listeners that only this generation had. Nothing of it is
	// left but, until Discard, its release.
	Forget struct{ Gen Generation }
	// Discard lets go of the release that this generation had resolved.
	Discard struct{ Gen Generation }
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
	// Quiesce tells a worker that it gets no new connections any more.
	Quiesce struct{ Worker Worker }
	// Signal sends a drain signal of the generation's to the worker's processes:
	// the first one, or a later one of Policy.Ladder.
	Signal struct {
		Worker Worker
		Rung   int // from 0
	}
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
		Kind    NoteKind
		Gen     Generation
		Worker  Worker // 0: the generation as a whole
		Slot    Slot
		Delay   time.Duration
		Weight  int // NoteCanary: percent of new connections; 0: worker by worker
		Workers int // NoteScaled
		Reason  string
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
func (Discard) isAction()     {}
func (Quiesce) isAction()     {}
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
	NoteStarting    NoteKind = "starting"
	NoteServing     NoteKind = "serving"
	NoteStandby     NoteKind = "standby"
	NoteRolledBack  NoteKind = "rolledback"
	NoteDraining    NoteKind = "draining"
	NoteGone        NoteKind = "gone"
	NoteCrashed     NoteKind = "crashed"
	NoteRestarting  NoteKind = "restarting"
	NoteLeft        NoteKind = "left"
	NoteEmptying    NoteKind = "emptying"
	NoteAbandoned   NoteKind = "abandoned"
	NoteExited      NoteKind = "exited"
	NoteLate        NoteKind = "late" // a queue did not empty, or a signal was not obeyed, in time
	NoteStopping    NoteKind = "stopping"
	NoteCanary      NoteKind = "canary"
	NoteReverting   NoteKind = "reverting"
	NoteReplacing   NoteKind = "replacing"
	NoteUnhealthy   NoteKind = "unhealthy"
	NoteScaled      NoteKind = "scaled"
	NoteLooping     NoteKind = "crash-loop"
	NoteLeftStopped NoteKind = "left-stopped"
)

package machine

import "time"

// Event is a past fact, told to Step.
type Event interface{ isEvent() }

type (
	// Reload asks for a new generation; the first one too.
	Reload struct{ Request Request }
	// Prepared answers Prepare: the release is resolved and its listeners are bound.
	Prepared struct {
		Gen    Generation
		Policy Policy
	}
	// Refused answers Prepare: configuration, release or a listener is unfit.
	Refused struct {
		Gen    Generation
		Reason string
	}
	// Unstartable answers Start: the target could not be executed.
	Unstartable struct {
		Worker Worker
		Reason string
	}
	// Exited says that a worker's process has ended and was reaped. Stay: in a way
	// after which it is not to be restarted.
	Exited struct {
		Worker Worker
		Reason string
		Stay   bool
	}
	// BecameReady says that a worker said, or was proved, to be ready.
	BecameReady struct{ Worker Worker }
	// Probed answers Probe; an empty Failure is success.
	Probed struct {
		Worker  Worker
		Failure string
	}
	// Extended says that a worker asked for more time, from now, for what it is
	// doing: to get ready, or to end.
	Extended struct {
		Worker Worker
		By     time.Duration
	}
	// Left says that a living worker does not serve its slot any more: it
	// closed the socket, or announced that it is stopping.
	Left struct {
		Worker Worker
		Reason string
	}
	// Unhealthy says that a worker that is up does not serve as it should: it failed
	// its probe, or was silent for too long. Stuck: it accepts nothing, so that
	// somebody else has to serve its slot. It may be told again and again.
	Unhealthy struct {
		Worker Worker
		Reason string
		Stuck  bool
	}
	// Outgrown says that a worker is to be replaced, without haste: it has grown
	// beyond its memory, or is too old. It may be told again and again.
	Outgrown struct {
		Worker Worker
		Reason string
	}
	// Broken says that a slot has a fresh socket because the old one left its
	// group; a worker that holds the slot cannot reach the fresh one.
	Broken struct {
		Slot   Slot
		Reason string
	}
	// Quiet ends a Watch: the handshakes that were half open when it began are
	// gone (or were waited for long enough) and the slot's queue is empty.
	Quiet struct{ Slot Slot }
	// Stranded says, at most once a Watch, that a watched slot has connections
	// queued. Own: only the release of the slot's owner can serve them, because
	// they came by a listener that who serves now does not have.
	Stranded struct {
		Slot Slot
		Own  bool
	}
	// Steered answers a Steer, before any other fact is told. It is told again when
	// what had failed was put right.
	Steered struct{}
	// Unsteered answers a Steer that failed, in whole or in part.
	Unsteered struct{ Reason string }
	// Idle ends a WatchIdle: the worker has no connection left.
	Idle struct{ Worker Worker }
	// Fired says that a timer's time has come.
	Fired struct{ Timer Timer }
	// Scale asks for another number of workers of the generation that serves, at
	// least 1. While a newcomer is under way it changes nothing.
	Scale struct{ Workers int }
	// Rollback asks to serve the previous release again; a Verdict answers.
	Rollback struct{ Request Request }
	// Promote ends a canary or a bake, for the newcomer. Step: only the present step
	// of a canary.
	Promote struct{ Step bool }
	// Abort ends a newcomer, or a canary or bake, against it.
	Abort struct{}
	// Stop asks for a graceful end of everything.
	Stop struct{}
	// End asks for the end of everything now.
	End struct{}
)

func (Reload) isEvent()      {}
func (Prepared) isEvent()    {}
func (Refused) isEvent()     {}
func (Unstartable) isEvent() {}
func (Exited) isEvent()      {}
func (BecameReady) isEvent() {}
func (Probed) isEvent()      {}
func (Extended) isEvent()    {}
func (Left) isEvent()        {}
func (Unhealthy) isEvent()   {}
func (Outgrown) isEvent()    {}
func (Scale) isEvent()       {}
func (Rollback) isEvent()    {}
func (Promote) isEvent()     {}
func (Abort) isEvent()       {}
func (Broken) isEvent()      {}
func (Quiet) isEvent()       {}
func (Stranded) isEvent()    {}
func (Steered) isEvent()     {}
func (Unsteered) isEvent()   {}
func (Idle) isEvent()        {}
func (Fired) isEvent()       {}
func (Stop) isEvent()        {}
func (End) isEvent()         {}

// Package event defines the facts that a launcher reports: one stream of typed
// events and one Report of the present state. Logs, status, metrics and hooks
// all show these and nothing else, so the JSON of these types is a contract:
// fields may be added, none changes its meaning. The package imports nothing of
// ours and never formats for people beyond Event.Message.
package event

import "time"

// Kind names a past fact.
type Kind string

// The kinds, in the order of a generation's life.
const (
	ListenerOpened Kind = "listener-opened" // Listener, Mode, Reason (why shared)
	ListenerClosed Kind = "listener-closed"
	Requested      Kind = "reload-requested"
	Superseded     Kind = "superseded"   // a later reload took the place of a remembered one
	Refused        Kind = "refused"      // config, release or a new listener is unfit; nothing was started
	Starting       Kind = "starting"     // a generation's workers are being started
	Started        Kind = "started"      // a worker's target was executed: PID
	Ready          Kind = "ready"        // a worker is ready: Reason says by what
	Serving        Kind = "serving"      // a generation receives new connections from this instant
	Left           Kind = "left"         // a worker that drains has Connections left
	Standby        Kind = "standby"      // a generation stands by during the bake
	RolledBack     Kind = "rolledback"   // a newcomer failed: Reason, Tail
	Draining       Kind = "draining"     // a generation receives nothing new
	Signalled      Kind = "signalled"    // a worker got its drain signal
	Killed         Kind = "killed"       // a worker got KILL: Reason
	Crashed        Kind = "crashed"      // a worker was lost without being asked to end: Reason, Tail
	Restarting     Kind = "restarting"   // its successor starts after Delay
	Emptying       Kind = "emptying"     // a slot without a worker has connections queued; a worker is started to serve them
	Abandoned      Kind = "abandoned"    // such a slot could not be emptied: these connections are lost
	Exited         Kind = "exited"       // a worker that was asked to end has ended
	Gone           Kind = "gone"         // nothing of a generation is left
	Finding        Kind = "finding"      // something was wrong with a listener's sockets and was put right
	Status         Kind = "status"       // a worker described itself (STATUS=)
	Canary         Kind = "canary"       // a generation receives a share of new connections: Weight, in percent; 0: worker by worker
	Stuck          Kind = "stuck"        // a worker leaves connections unaccepted: Reason
	Unhealthy      Kind = "unhealthy"    // a worker failed its live probe or watchdog, or is stuck, and is replaced: Reason
	Replacing      Kind = "replacing"    // a worker gets a successor, and ends when that one is ready: Reason, Delay
	Scaled         Kind = "scaled"       // a generation gets another number of workers
	CrashLoop      Kind = "crash-loop"   // a worker is lost again and again before it has run for a while
	Reverting      Kind = "reverting"    // a release that served before is started again: Reason
	LeftStopped    Kind = "left-stopped" // a worker ended in a way after which it is not to be restarted: Reason
	Resumed        Kind = "resumed"      // the launcher took the place of one that was upgraded or killed, with its workers: Generation that serves
	Stopping       Kind = "stopping"     // the launcher ends
	Stopped        Kind = "stopped"      // the launcher has ended
	Missed         Kind = "missed"       // in a stream: its reader was slow, and Count events are not in it
)

// Serves says whether a generation serves from this event on that nobody had told of.
func (e Event) Serves() bool { return e.Kind == Serving || e.Kind == Resumed && e.Generation > 0 }

// Event is one past fact.
type Event struct {
	Time       time.Time     `json:"time"`
	Kind       Kind          `json:"event"`
	Message    string        `json:"message"`              // one sentence for people
	Generation int           `json:"generation,omitempty"` // from 1
	Worker     int           `json:"worker,omitempty"`     // serial number of the worker, never reused
	Slot       int           `json:"slot,omitempty"`       // of the worker, or that the event is about; -1: none
	PID        int           `json:"pid,omitempty"`
	Listener   string        `json:"listener,omitempty"` // name of the listener
	Address    string        `json:"address,omitempty"`  // canonical address of the listener
	Mode       string        `json:"mode,omitempty"`     // "steered" or "shared"
	Reason     string        `json:"reason,omitempty"`
	Delay      time.Duration `json:"delay,omitempty"`  // nanoseconds
	Weight     int           `json:"weight,omitempty"` // percent of new connections, of a canary
	// Connections that a worker has which drains.
	Connections int      `json:"connections,omitempty"`
	Tail        []string `json:"tail,omitempty"`  // the last lines that a failed worker printed
	Count       int      `json:"count,omitempty"` // of events that were missed
}

// Report is the present state of one launcher.
type Report struct {
	Name        string       `json:"name"`
	PID         int          `json:"pid"`
	Started     time.Time    `json:"started"`
	State       string       `json:"state"` // one of the States
	Stopping    bool         `json:"stopping,omitempty"`
	Restarts    int          `json:"restarts"`          // workers started in the place of others, since the launcher started
	Version     string       `json:"version,omitempty"` // the launcher's
	Resumed     int          `json:"resumed,omitempty"` // how often it took the place of one that was upgraded or killed, workers and all
	Listeners   []Listener   `json:"listeners"`
	Generations []Generation `json:"generations"`         // the newest first
	Releases    []Release    `json:"releases,omitempty"`  // that a rollback can go back to, in the order in which it would
	Verdict     string       `json:"verdict,omitempty"`   // of the last reload
	Survivors   []int        `json:"survivors,omitempty"` // processes of workers that outlived a killed launcher
}

// The states of an application, as its users meet it.
const (
	StateStarting  = "starting"   // nothing serves yet
	StateServing   = "serving"    // a worker that is ready receives new connections
	StateWaiting   = "waiting"    // new connections wait: no worker is ready, one is about to be
	StateCrashLoop = "crash-loop" // a worker is lost again and again
	StateStopped   = "stopped"    // every worker has ended in a way after which it is left stopped; or, with no PID, it does not run
	StateStopping  = "stopping"   // the launcher ends
	StateDied      = "died"       // the launcher was killed; there is none that could say so itself
)

// Listener is one configured address.
type Listener struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Mode    string `json:"mode"`
	Reason  string `json:"reason,omitempty"` // why shared
}

// Generation is one start of a release.
type Generation struct {
	Number    int    `json:"number"`
	Phase     string `json:"phase"`               // "preparing", "starting", "canary", "serving", "standby", "draining"
	Release   int    `json:"release"`             // the generation that resolved what it runs: its own, or one that served before
	Path      string `json:"path,omitempty"`      // the executable
	Directory string `json:"directory,omitempty"` // resolved
	Wanted    int    `json:"wanted"`              // workers it is to have
	Looping   bool   `json:"looping,omitempty"`   // a worker is lost again and again
	Stopped   []int  `json:"stopped,omitempty"`   // indexes of workers that were left stopped
	// Environment names the variables that are other than those of the generation that
	// served when this one was started: +NAME is new, -NAME gone, ~NAME has another value.
	Environment []string    `json:"environment,omitempty"`
	Canary      *CanaryStep `json:"canary,omitempty"`
	// Memory and CPU are by the generation's control group, where it has one: of all
	// processes it ever had.
	Memory  uint64        `json:"memory,omitempty"` // bytes, the kernel's for them and cached files among it
	CPU     time.Duration `json:"cpu,omitempty"`    // nanoseconds of user and system time
	Workers []Worker      `json:"workers"`
}

// CanaryStep is the share that a generation has which does not serve yet. Steps is 0
// when it takes over worker by worker.
type CanaryStep struct {
	Step   int  `json:"step"` // from 1
	Steps  int  `json:"steps"`
	Weight int  `json:"weight"`           // percent of new connections
	Paused bool `json:"paused,omitempty"` // until it is promoted
}

// Release is one that ran well and is kept.
type Release struct {
	Generation int    `json:"generation"` // that resolved it
	Path       string `json:"path"`       // the executable
	Directory  string `json:"directory"`  // resolved
}

// Worker is one process of a generation.
type Worker struct {
	Serial      int           `json:"serial"`
	Index       int           `json:"index"`
	Slot        int           `json:"slot"` // -1: none any more
	Role        string        `json:"role"` // "member", or "emptier": it serves only what a slot without a worker still holds
	State       string        `json:"state"`
	Weight      float64       `json:"weight"` // percent of new connections
	PID         int           `json:"pid,omitempty"`
	Started     time.Time     `json:"started,omitzero"`
	Restarts    int           `json:"restarts,omitempty"`    // of its index, since it was last up for reset_after
	Memory      uint64        `json:"memory,omitempty"`      // bytes, with its children
	CPU         time.Duration `json:"cpu,omitempty"`         // nanoseconds of user and system time, with its children
	Connections *int          `json:"connections,omitempty"` // that it has left, while it drains
	Stuck       bool          `json:"stuck,omitempty"`       // it leaves connections unaccepted
	Status      string        `json:"status,omitempty"`      // in its own words
}

// Verdict is the one answer to a reload or a rollback.
type Verdict struct {
	Outcome    string   `json:"outcome"`              // "swapped", "rolled back", "refused", "superseded" or "stopped"
	Generation int      `json:"generation,omitempty"` // 0: none was begun
	Reason     string   `json:"reason,omitempty"`
	Tail       []string `json:"tail,omitempty"` // the newcomer's last lines
}

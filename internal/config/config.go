// Package config turns the text of a configuration file, a profile of it and
// the command line's flags into a Config that is complete and valid.
//
// The invariant: a Config that Parse returned has every default filled in, every
// relative path made absolute, and nothing in it that the launcher does not act
// on; a key that is not known, or would have no effect, is an error with its
// place in the file. Several errors are reported together.
//
// The package never looks at the machine beyond reading the one file it is given:
// whether an address can be bound, a command found or a user looked up is for
// the launcher to say. It knows nothing of the engine.
package config

import (
	"io/fs"
	"time"
)

// Config is one application: a command, its listeners, and how it is swapped.
//
// The toml tags are the keys of the file; fields without one are not keys. The form
// tags name a syntax that the type alone does not tell; see decoder.value.
type Config struct {
	// Name is the application's. Never empty after Parse: where neither file nor
	// flag gives one it is the base name of Command.Exec[0].
	Name string `toml:"name"`
	// Watch are absolute paths of files and directories; what changes there starts a
	// swap.
	Watch   []string   `toml:"watch" form:"paths"`
	Command Command    `toml:"command"`
	Listen  []Listener `toml:"listen"` // at least one
	Handoff Handoff    `toml:"handoff"`
	Health  Health     `toml:"health"`
	Node    Node       `toml:"node"`
	Restart Restart    `toml:"restart"`
	Limits  Limits     `toml:"limits"`
	Hooks   Hooks      `toml:"hooks"`
	Logs    Logs       `toml:"logs"`
	Log     Log        `toml:"log"`
	Control Control    `toml:"control"`

	File     string   // absolute path of the file read; "" when flags gave everything
	Profile  string   // the profile that was chosen; "" for none
	Profiles []string // the names of all profiles in the file, sorted
}

// Command is what to run, and as whom.
type Command struct {
	// Exec is the program and its arguments; never empty. Exec[0] is an absolute
	// path, or a bare name for $PATH.
	Exec []string `toml:"exec" form:"command"`
	// Directory is absolute, or "": the directory the launcher was started in.
	Directory string `toml:"directory" form:"path"`
	User      string `toml:"user"`  // name or number; "": the launcher's
	Group     string `toml:"group"` // name or number; "": the user's own, or the launcher's
	// Env lies over the launcher's environment, and EnvFile over Env.
	Env map[string]string `toml:"env"`
	// EnvFile are absolute paths, read in this order at each swap; one that
	// begins with '-' may be missing.
	EnvFile []string `toml:"env_file" form:"files"`
	Umask   *int     `toml:"umask"` // nil: the launcher's
	// Limits are resource limits by their setrlimit(2) name in lower case without
	// RLIMIT_: "65536", "512M", "1024:65536" (soft:hard) or "unlimited".
	Limits map[string]string `toml:"limits"`
	// Stdin is the name of the listener that is the program's standard input, as
	// inetd's "wait" has it; "": /dev/null.
	Stdin string `toml:"stdin"`
	// NewPrivileges says whether the program can gain rights, as by sudo.
	NewPrivileges NewPrivileges `toml:"new_privileges"`
	// Ambient are capabilities that the program has though it is not root: their names in
	// capitals with CAP_.
	Ambient []string `toml:"ambient"`
	// ConfineSignals keeps the program's processes from signalling any other.
	ConfineSignals bool `toml:"confine_signals"`
}

// Listener is one configured address.
type Listener struct {
	// Name is what the worker sees in LISTEN_FDNAMES; unique; never empty after
	// Parse: listeners without a name are called listen-1, listen-2 ... in order.
	Name    string `toml:"name"`
	Address string `toml:"address"` // as written; socket.ParseAddress reads it
	Backlog int    `toml:"backlog"`
	// Mode and Owner are for unix sockets only. 0: as the umask leaves it.
	Mode     fs.FileMode `toml:"mode"`
	Owner    string      `toml:"owner"` // "user", "user:group" or ":group"; UserGroup splits it
	Steering Steering    `toml:"steering"`
	// NonBlocking: the sockets are handed over with O_NONBLOCK set.
	NonBlocking bool `toml:"nonblocking"`
}

// Handoff is how one generation follows another.
type Handoff struct {
	// Workers is how many processes a generation has, at most MaxWorkers; 0 is "max":
	// as many as there are CPUs that this process may use.
	Workers int `toml:"workers" form:"workers"`
	// Slots says whether each worker has a slot or all of a generation share one.
	Slots        Slots         `toml:"slots"`
	Swap         Swap          `toml:"swap"`
	Ready        Ready         `toml:"ready"`
	ReadyDelay   time.Duration `toml:"ready_delay"`   // positive exactly when Ready is ReadyDelay
	ReadyTimeout time.Duration `toml:"ready_timeout"` // positive
	// Canary are the shares that a newcomer gets before it gets everything, in
	// ascending order; none: everything at once.
	Canary     []CanaryStep  `toml:"canary"`
	CanaryBy   CanaryBy      `toml:"canary_by"`
	Bake       time.Duration `toml:"bake"`
	DrainDelay time.Duration `toml:"drain_delay"`
	DrainIdle  time.Duration `toml:"drain_idle"`
	// HandshakeWait bounds the wait for handshakes half open at the switch.
	HandshakeWait time.Duration `toml:"handshake_wait"`
	DrainTimeout  time.Duration `toml:"drain_timeout"` // positive
	// DrainSignals are sent one after the other while the worker lives: at least one,
	// the first at once, the last before DrainTimeout. DrainLadder has their numbers.
	DrainSignals []DrainSignal `toml:"drain_signals"`
	// QuiesceSignal is sent when new connections stop, before the drain signals: a
	// name in capitals without SIG, or "" for none. Quiesce is its number.
	QuiesceSignal string `toml:"quiesce_signal"`
	MaxDraining   int    `toml:"max_draining"` // at least 1
	// Protocols are names of protocols, or "auto" alone: chosen by looking at the
	// program.
	Protocols []string `toml:"protocols"`
	// ReadyFD is the descriptor on which the program writes a newline when it is
	// ready, as s6's notification-fd; 0: none.
	ReadyFD int `toml:"ready_fd"`
}

// CanaryStep is one share of new connections, and when it ends: exactly one of For
// and Pause is set.
type CanaryStep struct {
	Weight int           `toml:"weight"` // percent, 1 to 99
	For    time.Duration `toml:"for"`
	Pause  bool          `toml:"pause"` // until somebody promotes
}

// DrainSignal is one signal of a drain.
type DrainSignal struct {
	Signal string        `toml:"signal"` // in capitals without SIG
	After  time.Duration `toml:"after"`  // the first signal
}

// Health is how it is found out whether a worker is up.
type Health struct {
	Ready Probe `toml:"ready"` // before a newcomer is let in
	Live  Live  `toml:"live"`  // of those that serve, again and again
}

// Live is how a worker that serves is known to be well: by a probe, by what it says
// itself, and by whether it accepts.
type Live struct {
	Probe
	// Watchdog is how long a worker that speaks WATCHDOG=1 may be silent; 0: it is not
	// asked to speak it.
	Watchdog time.Duration `toml:"watchdog"`
	// StuckAfter is how long the launcher's own connection may wait to be accepted; 0:
	// none is made.
	StuckAfter time.Duration `toml:"stuck_after"`
	Stuck      string        `toml:"stuck"` // StuckReport or StuckReplace
}

// What is done about a worker that is stuck.
const (
	StuckReport  = "report"
	StuckReplace = "replace"
)

// Probe is one question to one worker.
type Probe struct {
	Probe     string            `toml:"probe"`    // tcp, http, https, exec; "": none
	Listener  string            `toml:"listener"` // by name; "": the first that is not udp
	Method    string            `toml:"method"`
	Path      string            `toml:"path"`
	Host      string            `toml:"host"` // "": the listener's address
	Header    map[string]string `toml:"header"`
	Status    string            `toml:"status"`              // "200-399", "200,204"
	Body      string            `toml:"body"`                // what the answer must contain; "": anything
	Exec      []string          `toml:"exec" form:"command"` // for probe = "exec"
	Interval  time.Duration     `toml:"interval"`
	Timeout   time.Duration     `toml:"timeout"`   // of one try
	Successes int               `toml:"successes"` // in a row, to pass
	Failures  int               `toml:"failures"`  // in a row, to fail
}

// Node is what concerns programs for Node.
type Node struct {
	// Preload ends keep-alive connections politely when the program drains.
	Preload bool `toml:"preload"`
	// AnyPort gives the program a configured listener whatever port it asks for.
	AnyPort bool `toml:"any_port"`
}

// Restart is how a worker that died by itself comes back.
type Restart struct {
	BackoffMin time.Duration `toml:"backoff_min"` // positive
	BackoffMax time.Duration `toml:"backoff_max"` // at least BackoffMin
	ResetAfter time.Duration `toml:"reset_after"`
	// StopExitCodes, 0 to 255: a worker that exits with one of them is left stopped.
	StopExitCodes []int `toml:"stop_exit_codes"`
	// RevertAfter is after how many restarts in a row the last good release serves
	// again; 0: never.
	RevertAfter int `toml:"revert_after"`
}

// Limits are what a worker may reach before it is replaced by a successor. Those
// that the kernel holds a process to are Command.Limits.
type Limits struct {
	Memory int64         `toml:"memory"`  // bytes resident, with its children; 0: any number
	MaxAge time.Duration `toml:"max_age"` // 0: any age
	// MemoryMax is what the kernel holds all workers of a generation together to, by
	// their control group; 0: nothing.
	MemoryMax int64 `toml:"memory_max"`
}

// Hooks are commands that are run when something has happened; empty: none. The
// first element is an absolute path, or a bare name for $PATH.
type Hooks struct {
	Ready    []string      `toml:"ready" form:"command"`
	Swap     []string      `toml:"swap" form:"command"`
	Rollback []string      `toml:"rollback" form:"command"`
	Crash    []string      `toml:"crash" form:"command"`
	Stuck    []string      `toml:"stuck" form:"command"`
	Timeout  time.Duration `toml:"timeout"` // positive; of one run
}

// Logs is what becomes of what workers write.
type Logs struct {
	// Output is OutputPass (through pipes of the launcher, byte for byte, the last
	// lines kept to explain a failure), OutputInherit (the launcher's own
	// descriptors) or OutputCapture (into files, line by line).
	Output string `toml:"output"`
	// What follows is of use with OutputCapture alone.
	MaxSize  int64         `toml:"max_size" form:"file"` // bytes of one file
	MaxAge   time.Duration `toml:"max_age"`              // of a line; 0: any
	Keep     int           `toml:"keep"`                 // files, the current one among them
	Compress bool          `toml:"compress"`
}

// What becomes of what workers write.
const (
	OutputPass    = "pass"
	OutputInherit = "inherit"
	OutputCapture = "capture"
)

// Log is the launcher's own log, on standard error.
type Log struct {
	Format string `toml:"format"` // auto, text or json
	Level  string `toml:"level"`  // debug, info, warn or error
}

// Control is who may use the control socket besides root and the launcher's user.
type Control struct {
	Group string `toml:"group"` // its members, by name or number; "": nobody
}

// Ready names how a worker is known to be ready.
type Ready string

// The ways of being ready.
const (
	ReadyAuto   Ready = "auto"   // the message where one is sure to come, else the proof of acceptance
	ReadyNotify Ready = "notify" // READY=1 on NOTIFY_SOCKET
	ReadyAccept Ready = "accept" // it accepts connections on its slots
	ReadyDelay  Ready = "delay"  // Handoff.ReadyDelay has passed and it still runs

	ReadyHTTP    Ready = "http"    // Health.Ready, over http or https, passes
	ReadyExec    Ready = "exec"    // Health.Ready, a command, passes
	ReadyNewline Ready = "newline" // a newline on Handoff.ReadyFD
)

// ProtocolsAuto, alone, has the protocols chosen by looking at the program.
const ProtocolsAuto = "auto"

// Slots says who has a slot of its own.
type Slots string

// The ways of giving out slots.
const (
	SlotsWorker     Slots = "worker"
	SlotsGeneration Slots = "generation" // for servers that serve one request at a time
)

// NewPrivileges says whether a program can gain rights.
type NewPrivileges string

// The ways with set-user-ID programs and file capabilities.
const (
	NewPrivilegesAuto   NewPrivileges = "auto" // refused where Command.User is set and not root
	NewPrivilegesAllow  NewPrivileges = "allow"
	NewPrivilegesRefuse NewPrivileges = "refuse"
)

// Swap says how many workers of a generation take over at once.
type Swap string

// The ways of swapping.
const (
	SwapTogether Swap = "together"
	SwapRolling  Swap = "rolling" // worker by worker
)

// CanaryBy says what a canary's share is a share of.
type CanaryBy string

// The ways of sharing out.
const (
	CanaryByConnection CanaryBy = "connection" // each is thrown for
	CanaryByClient     CanaryBy = "client"     // an address stays on its side
)

// MaxWorkers bounds Handoff.Workers: more is a slip, as a port would be.
const MaxWorkers = 1024

// Steering says whether a listener may have a slot per worker.
type Steering string

// The kinds of steering.
const (
	SteeringAuto Steering = "auto" // slots where the kernel allows them, else one shared socket
	SteeringOff  Steering = "off"  // one shared socket
)

// Default returns a Config with every default and nothing that has none: no
// name, no command, no listener. It is not valid by itself.
func Default() *Config {
	return &Config{
		Command: Command{NewPrivileges: NewPrivilegesAuto},
		Handoff: Handoff{
			Workers:       1,
			Slots:         SlotsWorker,
			Swap:          SwapTogether,
			CanaryBy:      CanaryByConnection,
			Ready:         ReadyAuto,
			ReadyTimeout:  30 * time.Second,
			DrainDelay:    time.Second,
			HandshakeWait: 3 * time.Second,
			DrainTimeout:  30 * time.Second,
			DrainSignals:  []DrainSignal{{Signal: "TERM"}},
			MaxDraining:   8,
			Protocols:     []string{ProtocolsAuto},
		},
		Health: Health{
			Ready: defaultProbe(250 * time.Millisecond),
			Live: Live{
				Probe:      defaultProbe(10 * time.Second),
				StuckAfter: 10 * time.Second,
				Stuck:      StuckReport,
			},
		},
		Node: Node{Preload: true},
		Restart: Restart{
			BackoffMin:  100 * time.Millisecond,
			BackoffMax:  30 * time.Second,
			ResetAfter:  10 * time.Second,
			RevertAfter: 3,
		},
		Hooks: Hooks{Timeout: 10 * time.Second},
		Logs:  Logs{Output: OutputPass, MaxSize: 64 << 20, MaxAge: 7 * 24 * time.Hour, Keep: 10, Compress: true},
		Log:   Log{Format: "auto", Level: "info"},
	}
}

func defaultProbe(interval time.Duration) Probe {
	return Probe{
		Method: "GET", Path: "/", Status: "200-399",
		Interval: interval, Timeout: 2 * time.Second, Successes: 1, Failures: 3,
	}
}

// DefaultListener returns the defaults of one [[listen]].
func DefaultListener() Listener {
	return Listener{Backlog: 4096, Steering: SteeringAuto}
}

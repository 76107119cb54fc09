// Package process starts, signals and watches the processes of workers. It is
// the only place with process system calls.
//
// What it keeps:
//
//   - A worker runs exactly what its [Release] resolved to, also when the file
//     at that path has since been replaced, moved or deleted: the executable and
//     the working directory are held open.
//   - A worker starts with what was named for it and nothing else: descriptors,
//     environment, umask, limits, user, groups; signals at their defaults. The
//     open file descriptions it shares with others are not changed: no O_NONBLOCK
//     is set or cleared on the way.
//   - Its exit is reported once, through [Process.Done], whenever it comes: also
//     before [Start] has returned, and also while a grandchild still holds its
//     pipes open. Nothing is copied here; stdio are plain descriptors.
//   - No signal ever reaches a process that merely inherited a number (see
//     [Process.Signal]).
//   - As PID 1 it reaps what it inherits, and never the exit of a worker ([Reap]).
//
// A process and a release outlive their launcher: Keep says what the next one has to
// know, and ResumeProcess and ResumeRelease make them again.
//
// It never waits for whoever comes (never wait4(-1)), never decides
// what to do about an exit, and knows nothing of sockets or protocols.
//
// # The shim
//
// Between fork and exec a Go program can do almost nothing, and the pid that
// LISTEN_PID needs does not exist before. So [Start] re-executes the launcher's
// own binary (/proc/self/exe, which survives its replacement on disk) as a hidden
// command, and [Main] turns that process into the shim: it reads its orders from
// an inherited memfd, prepares itself, and execs the target. A pipe that closes on
// exec carries errors back; its end of file, after the mark that exec was reached,
// is the proof that the target runs.
package process

import (
	"fmt"
	"syscall"
	"time"
)

// hidden is argv[1] of the shim.
const hidden = "__exec"

// Command is what a configuration says about the program to run. [Resolve] turns
// it into a Release.
type Command struct {
	// Exec is the program and its arguments. A name with a slash is relative to
	// Dir (or to the launcher's directory), one without is looked up in $PATH of
	// the resulting environment. The target sees Exec[0] unchanged as its argv[0].
	Exec []string
	// Dir is the working directory; empty: the launcher's own. It may lead through
	// symlinks; they are followed once, by Resolve.
	Dir string
	// User and Group are names or numbers; empty: unchanged. A user brings its
	// primary group (unless Group says another), its supplementary groups, and
	// HOME, USER, LOGNAME and SHELL, as with systemd.
	User, Group string
	// Base is the environment to begin with; nil: os.Environ(). Give it what
	// protocol.Scrub left of the launcher's environment, so that variables named
	// in Env and EnvFile are not scrubbed with the rest.
	Base []string
	// Env (KEY=VALUE) lies over Base and the user's variables.
	Env []string
	// EnvFile names files of KEY=VALUE lines. They lie over Env, later ones over
	// earlier ones, as systemd's EnvironmentFile. A relative name is relative to
	// Dir. A missing file is an error unless its name is prefixed with '-'.
	EnvFile []string
	// Umask of the target; nil: unchanged.
	Umask *int
	// Limits by name (nofile, core, as, memlock, ...): "SOFT:HARD" or one value for
	// both; bytes may end in K, M, G or T (of 1024); "unlimited" is no limit.
	Limits map[string]string
	// NewPrivileges says whether the target can gain rights that its user has not got,
	// from set-user-ID programs and file capabilities (no_new_privs of prctl(2)).
	NewPrivileges NewPrivileges
	// Ambient are capabilities, as "CAP_NET_BIND_SERVICE", that the target and what it
	// starts have though their user is not root. All others are taken away from a target
	// that is not root, in every set; one that runs as root has what exec gives it.
	// Resolve refuses what this process has not got itself.
	Ambient []string
	// Confine keeps the signals of the target and of all that it starts among
	// themselves: kill(2) of anybody else, the launcher first of all, is EPERM,
	// whatever the signal and whoever they are; ptrace(2) of others as well. Others
	// may signal them as ever. Resolve refuses it on a kernel without Landlock's
	// signal scope (landlock(7), Linux 6.12).
	//
	// A launcher without CAP_SYS_ADMIN has to set no_new_privs for it (prctl(2)):
	// set-user-ID programs, such as sudo, then give the target no other rights. And
	// programs that end when they cannot signal their parent (facebookgo/grace) end.
	Confine bool
}

// NewPrivileges says who can gain rights.
type NewPrivileges string

// Auto refuses them to a Command.User who is not root, and changes nothing where none
// is named: an ordinary launcher's program may call sudo as it did without it.
const (
	PrivilegesAuto   NewPrivileges = ""
	PrivilegesAllow  NewPrivileges = "allow"
	PrivilegesRefuse NewPrivileges = "refuse"
)

// Spec is one start of a Release.
type Spec struct {
	Release *Release
	// Args replace the release's arguments, the program's name first; nil: its own.
	Args []string
	// Files become descriptors 3, 4, ... of the target, without close-on-exec; -1
	// leaves that number closed.
	// They stay the caller's.
	Files []int
	// Env is the complete environment of the target. In the entries "LISTEN_PID=self"
	// and "WATCHDOG_PID=self" the shim puts the target's own pid.
	Env []string
	// Group is the cgroup.procs of the control group that it runs in, itself and all that
	// it starts; "": the launcher's own.
	Group string
	// Listed, which may be nil, is told the pid before anything of the target is done:
	// when this process ends before it has returned, so does that.
	Listed func(pid int)
	// Stdin, Stdout and Stderr are descriptors of the launcher; -1 is /dev/null.
	Stdin, Stdout, Stderr int
}

// Status is how a process ended.
type Status struct {
	Code       int            // exit code; -1 when ended by a signal
	Signal     syscall.Signal // what ended it; 0 when it exited by itself
	CoreDumped bool
	UserTime   time.Duration
	SystemTime time.Duration
	MaxRSS     int64 // bytes
	lost       error // the wait failed: how it ended is unknown
}

// String is "exit status 1", "signal: killed", "signal: aborted (core dumped)".
func (s Status) String() string {
	switch {
	case s.lost != nil:
		return fmt.Sprintf("exit status unknown: %v", s.lost)
	case s.Signal != 0 && s.CoreDumped:
		return fmt.Sprintf("signal: %v (core dumped)", s.Signal)
	case s.Signal != 0:
		return fmt.Sprintf("signal: %v", s.Signal)
	}
	return fmt.Sprintf("exit status %d", s.Code)
}

// Shell is the exit code as a shell has it: 128 and the signal's number where one ended
// the process; 1 when it is not known.
func (s Status) Shell() int {
	switch {
	case s.lost != nil:
		return 1
	case s.Signal != 0:
		return 128 + int(s.Signal)
	}
	return s.Code
}

// Holder is a process that has a socket open.
type Holder struct {
	PID  int
	Name string // comm of proc_pid_comm(5): at most 15 bytes, its own choice; "" when it ended meanwhile
}

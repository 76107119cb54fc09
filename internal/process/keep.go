package process

// ProcessState is what a launcher has to know of a Process that its predecessor
// started. The process is meant by its pidfd, kept as "<prefix>.pid", and where that was
// not kept by its number and the time of its start.
type ProcessState struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start,omitempty"` // as in Mark; 0: not known
	// Ended is how it ended, once that is known.
	Ended *EndState `json:"ended,omitempty"`
	// Gone: nobody of its group is left either.
	Gone  bool  `json:"gone,omitempty"`
	Spent int64 `json:"spent,omitempty"` // the most CPU time that was seen, in nanoseconds
}

// EndState is a Status.
type EndState struct {
	Status
	Lost string `json:"lost,omitempty"` // why it is not known; "": it is
}

// ReleaseState is a Release; its descriptors are kept as "<prefix>.exe" and
// "<prefix>.dir". It holds the environment, so it is as secret as that is. Names and
// values may be any bytes, which a JSON string cannot carry: lists are joined by NUL.
type ReleaseState struct {
	Paths  []byte `json:"paths"` // path, real, directory; that one empty where none was configured
	Args   []byte `json:"args"`
	Env    []byte `json:"env"`
	Closed bool   `json:"closed,omitempty"`

	Executable FileState `json:"executable"`
	HasRun     bool      `json:"has_run,omitempty"`
	// Directory is what it was when it was opened; nil: none was configured.
	Directory *FileState `json:"directory,omitempty"`

	Umask   *int           `json:"umask,omitempty"` // nil: unchanged
	Limits  []LimitState   `json:"limits,omitempty"`
	Who     *IdentityState `json:"who,omitempty"` // nil: the launcher's own
	Rights  *RightsState   `json:"rights"`        // never nil: what is not there must not become more
	Confine bool           `json:"confine,omitempty"`
}

// FileState tells a file from others, and what was written into it from what it was.
type FileState struct {
	Dev   uint64 `json:"dev"`
	Inode uint64 `json:"inode"`
	Size  int64  `json:"size,omitempty"`
	// The time of its modification, in the kernel's words.
	Seconds     int64 `json:"seconds,omitempty"`
	Nanoseconds int64 `json:"nanoseconds,omitempty"`
}

// LimitState is one limit, by its name (see Command.Limits).
type LimitState struct {
	Name string `json:"name"`
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// RightsState is what the target may do beyond what its user may (see Command).
type RightsState struct {
	Bare    bool  `json:"bare,omitempty"`
	NoNew   bool  `json:"no_new,omitempty"`
	Ambient []int `json:"ambient,omitempty"` // by the numbers of capabilities(7)
}

// IdentityState is whom the target runs as. Both numbers must be there: what is not
// there must not become root.
type IdentityState struct {
	UID    *int  `json:"uid"` // -1: unchanged
	GID    *int  `json:"gid"`
	Groups []int `json:"groups,omitempty"`

	Name  string `json:"name,omitempty"`
	Home  string `json:"home,omitempty"`
	Shell string `json:"shell,omitempty"`
}

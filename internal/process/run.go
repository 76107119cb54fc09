package process

// Job is a command that is run to its end: a probe, a hook.
type Job struct {
	Release *Release
	Env     []string // its complete environment
	// Input is what it finds on its standard input, a file, so that it need not read
	// it; nil: /dev/null.
	Input []byte
	// Started, if not nil, is called once, with the process that runs or with nil when
	// none could be started.
	Started func(*Process)
}

// lastWords bounds what is kept of what a job says, in bytes.
const lastWords = 4096

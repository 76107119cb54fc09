package protocol

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxStatus bounds a status text, in bytes: it ends in logs and on screens.
const maxStatus = 256

// quiet is the least time between two lines about what is wrong on a channel.
const quiet = time.Second

// Message is what a worker said with sd_notify(3), in one datagram.
type Message struct {
	Ready    bool // READY=1
	Stopping bool // STOPPING=1
	// Status is STATUS=, made harmless: no control characters, valid UTF-8, at most
	// 256 bytes. Empty when none was said.
	Status string
	// ExtendTimeout is EXTEND_TIMEOUT_USEC: this long from now, at least, what goes
	// on may last. 0 when none was asked for.
	ExtendTimeout time.Duration
	Watchdog      bool // WATCHDOG=1: alive
	Trigger       bool // WATCHDOG=trigger: as if it had not been heard of in time
	// WatchdogInterval is WATCHDOG_USEC: from now on it is to be heard of this often.
	// Negative where it says 0, which systemd takes as never again; 0 when nothing
	// was said of it.
	WatchdogInterval time.Duration
	PID              int // the process that sent it; 0: not known
	// Via is how it came, for sentences: "READY=1", "a byte on tableflip's pipe".
	Via string
}

// said tells whether there is anything in it to tell.
func (m Message) said() bool {
	m.PID, m.Via = 0, ""
	return m != Message{}
}

// parse reads the lines of a datagram. What it does not know, or cannot read, it
// passes over, as systemd does: newer programs say more. fdstore tells of a wish
// that is not granted.
func parse(datagram string) (m Message, fdstore bool) {
	for line := range strings.SplitSeq(datagram, "\n") {
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "READY":
			m.Ready = m.Ready || value == "1"
		case "STOPPING":
			m.Stopping = m.Stopping || value == "1"
		case "STATUS":
			m.Status = harmless(value)
		case "EXTEND_TIMEOUT_USEC":
			if d, ok := microseconds(value); ok {
				m.ExtendTimeout = d
			}
		case "WATCHDOG":
			m.Watchdog = m.Watchdog || value == "1"
			m.Trigger = m.Trigger || value == "trigger"
		case "WATCHDOG_USEC":
			if d, ok := microseconds(value); ok && d == 0 {
				m.WatchdogInterval = -1
			} else if ok {
				m.WatchdogInterval = d
			}
		case "FDSTORE":
			fdstore = fdstore || value == "1"
		}
	}
	return m, fdstore
}

// microseconds reads a count of them; what a Duration cannot hold is the longest.
func microseconds(s string) (time.Duration, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, false
	}
	if n > uint64(math.MaxInt64/time.Microsecond) {
		return math.MaxInt64, true
	}
	return time.Duration(n) * time.Microsecond, true
}

// harmless keeps what can be shown: a worker must not move an operator's cursor,
// or turn the direction of the text.
func harmless(s string) string {
	var out strings.Builder
	for _, r := range s {
		if r == '\t' {
			r = ' '
		}
		if r != utf8.RuneError && !unicode.IsPrint(r) {
			continue
		}
		if out.Len()+utf8.RuneLen(r) > maxStatus {
			break
		}
		out.WriteRune(r)
	}
	return out.String()
}

package systemd

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Notifier tells the manager that started this process how it is (sd_notify(3)). A
// nil one says nothing to nobody, and every method may be called on it.
//
// No method waits: what is to be said goes to a queue, and a goroutine sends it. A
// manager that does not read keeps back what it is told, and nobody else. Ready, Reloading,
// Stopping, Store and Forget are said in their order and each of them; of the others,
// which tell how it is now, the last one is.
type Notifier struct {
	address  string
	watchdog time.Duration // 0: nobody watches
	room     int
	log      *slog.Logger
	wake     chan struct{} // of one: there may be something to say
	closing  chan struct{} // closed by Close
	done     chan struct{} // closed when nothing is said any more

	mu       sync.Mutex // never held while anything is sent
	closed   bool
	queue    []message // in order; the first one may be on its way
	now      present   // what is to be said besides
	status   string    // the last one that was to be said
	wellAt   time.Time // when WATCHDOG=1 last was
	troubled string    // the error that was logged, until something arrives again
}

// message is one datagram.
type message struct {
	text    string
	fds     []int // ours, closed when it was sent
	ordered bool  // it is the queue's first
	now     present
}

// present is how it is now, as far as that has not been said.
type present struct {
	status string        // "": nothing new
	well   time.Time     // of WATCHDOG=1; zero: it is not to be said
	more   time.Duration // that is asked for; 0: none
	moreAt time.Time     // when it last was
}

// Bounds of the queue and of waiting.
const (
	// longest is how many messages wait for a manager that does not read; beyond it the
	// oldest go. Newer ones have said the same by then.
	longest = 1000
	// patience is how long one try to send takes.
	patience = 200 * time.Millisecond
	// farewell is how long Close waits for what is left to be read.
	farewell = time.Second
	// extension is how much time is asked for at once: while that which takes so long
	// makes progress it is asked for again long before it is over.
	extension = 10 * time.Second
	// statusLength is more than systemctl shows.
	statusLength = 400
)

// New reads how the manager is to be told from the environment; the variables stay,
// since another image of this process needs them. Without a manager it returns nil. An error says
// what is wrong with a variable; the rest is used.
func New(log *slog.Logger) (*Notifier, error) {
	address := os.Getenv("NOTIFY_SOCKET")
	switch {
	case address == "":
		return nil, nil
	case address[0] != '/' && address[0] != '@':
		return nil, fmt.Errorf("NOTIFY_SOCKET %q: neither a path nor an abstract socket", address)
	case !supported:
		return nil, errors.New("NOTIFY_SOCKET: " + unsupported)
	}
	n := &Notifier{address: address, log: log, wake: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{})}
	var err error
	n.watchdog, err = watchdog()
	if text := os.Getenv("FDSTORE"); text != "" {
		room, rerr := strconv.Atoi(text)
		if rerr != nil || room < 0 {
			err = errors.Join(err, fmt.Errorf("FDSTORE %q: not a number of descriptors", text))
		}
		n.room = max(room, 0)
	}
	go n.run() // ends with Close
	return n, err
}

// watchdog is how often the manager wants to hear of this process; 0: not at all.
func watchdog() (time.Duration, error) {
	text := os.Getenv("WATCHDOG_USEC")
	if text == "" {
		return 0, nil
	}
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0, nil
	}
	usec, err := strconv.ParseUint(text, 10, 64)
	if err != nil || usec == 0 {
		return 0, fmt.Errorf("WATCHDOG_USEC %q: not a number of microseconds", text)
	}
	if usec > uint64(forever/time.Microsecond) {
		return 0, nil // USEC_INFINITY for one
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// forever is beyond what anybody waits for, and within what a Duration holds.
const forever = 100 * 365 * 24 * time.Hour

// Room is how many descriptors the manager keeps for this process; 0: none, or it is
// older than systemd 254, which does not say.
func (n *Notifier) Room() int {
	if n == nil {
		return 0
	}
	return n.room
}

// Tick is how often Alive is to be called at least, usual when nobody wants it more often.
func (n *Notifier) Tick(usual time.Duration) time.Duration {
	if n == nil || n.watchdog == 0 {
		return usual
	}
	return max(min(usual, n.watchdog/4), time.Millisecond)
}

// Ready says that the first generation serves, or that a reload is over.
func (n *Notifier) Ready(status string) { n.state("READY=1", status) }

// Reloading says that a reload begins; Ready ends it.
func (n *Notifier) Reloading(status string) {
	// In one datagram with the time: for Type=notify-reload a manager compares that with
	// when it asked.
	n.state(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonic().Microseconds()), status)
}

// Stopping says that the process is about to end.
func (n *Notifier) Stopping(status string) { n.state("STOPPING=1", status) }

// state says something in order, with a status that describes it.
func (n *Notifier) state(text, status string) {
	if n == nil {
		return
	}
	n.change(func() {
		if line := oneLine(status); line != "" {
			text += "\nSTATUS=" + line
			n.status, n.now.status = line, "" // what was to be said before is over
		}
		n.add(message{text: text})
	})
}

// Status describes in a line what goes on. What has been said already is not said again.
func (n *Notifier) Status(text string) {
	if n == nil {
		return
	}
	n.change(func() {
		if line := oneLine(text); line != "" && line != n.status {
			n.status, n.now.status = line, line
		}
	})
}

// Alive says that the work goes on (WATCHDOG=1), if that was not said lately. It is
// for the loop that does the work, which calls it at least every Tick.
func (n *Notifier) Alive() {
	if n == nil || n.watchdog == 0 {
		return
	}
	n.change(func() {
		// With a call every quarter it is said at least every half.
		if now := time.Now(); now.Sub(n.wellAt) >= n.watchdog/4 {
			n.now.well, n.wellAt = now, now
		}
	})
}

// Extend asks for more time for what goes on, a start, a reload or the end, if that was
// not asked for lately. Called from the same loop, it lasts for some calls.
func (n *Notifier) Extend() {
	if n == nil {
		return
	}
	by := extension
	if n.watchdog != 0 {
		// The watchdog gets as much more: no more than it would wait anyway.
		by = min(by, n.watchdog)
	}
	n.change(func() {
		if now := time.Now(); now.Sub(n.now.moreAt) >= by/4 {
			n.now.more, n.now.moreAt = by, now
		}
	})
}

// ExtendBy asks for that much time at once, for what no loop follows.
func (n *Notifier) ExtendBy(by time.Duration) {
	if n == nil {
		return
	}
	n.change(func() { n.now.more, n.now.moreAt = by, time.Now() })
}

// Store has the manager keep descriptors under a name, for the next one that it starts
// in this one's place. They stay the caller's, who may close them at once.
func (n *Notifier) Store(name string, fds ...int) error {
	if n == nil {
		return nil
	}
	if err := storable(name); err != nil {
		return err
	}
	for len(fds) > 0 {
		some := fds[:min(len(fds), atOnce)]
		fds = fds[len(some):]
		copies, err := duplicate(some)
		if err != nil {
			return fmt.Errorf("store %s: %w", name, err)
		}
		n.change(func() { n.add(message{text: "FDSTORE=1\nFDPOLL=0\nFDNAME=" + name, fds: copies}) })
	}
	return nil
}

// Forget has the manager let go of all that it keeps under a name.
func (n *Notifier) Forget(name string) error {
	if n == nil {
		return nil
	}
	if err := storable(name); err != nil {
		return err
	}
	n.change(func() { n.add(message{text: "FDSTOREREMOVE=1\nFDNAME=" + name}) })
	return nil
}

// storable: systemd's fdname_is_valid. It would keep others under a name of its own.
func storable(name string) error {
	if name == "" || len(name) > 255 || strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c >= 127 || c == ':' }) {
		return fmt.Errorf("%q: not a name for stored descriptors", name)
	}
	return nil
}

// Close says what is left to be said, if somebody reads it within a second.
func (n *Notifier) Close() {
	if n == nil {
		return
	}
	n.mu.Lock()
	if !n.closed {
		n.closed = true
		close(n.closing)
	}
	n.mu.Unlock()
	<-n.done
}

// change changes what is to be said.
func (n *Notifier) change(f func()) {
	n.mu.Lock()
	if !n.closed {
		f()
	}
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default: // told already
	}
}

// add puts a message at the end of the queue.
func (n *Notifier) add(m message) {
	if len(n.queue) >= longest {
		release(n.queue[1].fds) // the first one is on its way
		n.queue = slices.Delete(n.queue, 1, 2)
	}
	n.queue = append(n.queue, m)
}

// oneLine makes a status that ends where the line does and that no terminal obeys.
func oneLine(text string) string {
	text = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > statusLength {
		text = strings.ToValidUTF8(text[:statusLength], "") + "..."
	}
	return strings.TrimSpace(text)
}

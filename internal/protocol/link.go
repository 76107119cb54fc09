package protocol

import (
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Kind names a protocol in the configuration.
type Kind string

// Socket is one listener as a worker gets it.
type Socket struct {
	Name    string // the listener's
	Network string // tcp, tcp4, tcp6, udp, udp4, udp6 or unix
	Address string // as a program would ask for it: ":8080", "127.0.0.1:8080", or the path
	FD      int    // the slot, in the launcher; -1 where only numbers in the worker are asked for
}

// Settings are what a configuration says about protocols.
type Settings struct {
	Kinds       []Kind // empty: chosen by looking at the program
	ReadyFD     int    // where the worker writes its newline; 0: nowhere
	NodePreload bool   // node is given the preload that ends keep-alive connections politely
	NodeAnyPort bool   // node's listen() gets a configured listener whatever port it asks for
	NodeInside  string // the wrapper that Unwrap saw through, which would have run node; "": none
}

// Choice is what the workers of a generation speak, and why.
type Choice struct {
	Settings Settings
	Kinds    []Kind          // in the order of the layout
	Why      map[Kind]string // for check and the log: "it carries TABLEFLIP_HAS_PARENT_7DIU3"
	// Says: a ready message is sure to come.
	Says bool
}

// Program is what Choose looks at.
type Program struct {
	Args []string // as configured, the program's name first
	Path string   // of the executable, absolute
	Real string   // the same without symlinks
	Dir  string   // the working directory; "": the launcher's own
	// Open reads the executable that will run, from its beginning.
	Open func() (io.ReadCloser, error)
}

// Worker is whom a Link is for.
type Worker struct {
	Generation int
	Index      int // of the worker in its generation, from 0
	Sockets    []Socket
	Base       []string           // its environment so far, KEY=VALUE
	Watchdog   time.Duration      // how often it is to say WATCHDOG=1; 0: not asked for
	Member     func(pid int) bool // is that a process of this worker, now?
	On         func(Message)      // called from other goroutines, one message at a time
	// Changed, which may be nil, is called from other goroutines when the link's state has
	// become another one by itself (see Link.Keep). It must not wait for the link.
	Changed func()
	Log     *slog.Logger
}

// channel is one protocol's part in the start of one worker: the one interface
// behind which all of them are.
type channel interface {
	// files are the descriptors that the worker inherits besides its sockets, in the
	// launcher's numbers. They stay the channel's.
	files() []int
	// env are the variables; sockets and files are the numbers that the first of
	// each has in the worker.
	env(sockets, files int) []string
	// started lets go of what only the worker needs. It comes once, whether the
	// start went well or not.
	started()
	close() error
	keeper
}

// What a channel may have besides.
type (
	// ground is what comes before the sockets: its files, in the launcher's numbers.
	// Its other files follow the sockets at once.
	ground interface{ below() []int }
	// settled is a channel whose one file has a number of its own in the worker.
	settled interface{ number() int }
	// drainer can ask the worker to finish, better than a signal does. What it
	// returns is closed when the worker has nothing left to finish.
	drainer interface{ drain() <-chan struct{} }
	// heir tells the worker that nothing of an older generation is left.
	heir interface{ alone() }
	// hinter knows something about why the worker is not ready; "" if nothing.
	hinter interface{ hint() string }
)

// Hub is what protocols keep across workers and generations of one application.
type Hub struct {
	options HubOptions
	einhorn einhornHub
	node    nodeHub
}

// HubOptions are what a Hub needs from outside.
type HubOptions struct {
	// Listen opens an address that no listener is configured for, or finds it
	// opened: node's cluster asks its primary for those too. All workers that ask
	// for an address get the same socket. It is called from other goroutines. fd is
	// the launcher's and close-on-exec; release is called once when the worker does
	// not need it any more.
	Listen func(network, address string) (fd int, release func(), err error)
	Log    *slog.Logger
}

// NewHub returns a Hub that holds nothing yet.
func NewHub(o HubOptions) *Hub {
	return &Hub{options: o, einhorn: newEinhornHub(), node: nodeHub{preload: newPreload()}}
}

// Close removes what the Hub has put on disk. Links are closed before.
func (h *Hub) Close() error { return errors.Join(h.einhorn.close(), h.node.close()) }

// Link is all that ties one worker to the launcher: its descriptors, variables
// and channels.
type Link struct {
	files    []int
	env      []string
	channels []channel
	kinds    []Kind // of the channels
}

// Open makes the link for one worker. Close it when the worker is gone, or was
// not started.
func (h *Hub) Open(c *Choice, w *Worker) (*Link, error) {
	if err := c.room(w.Sockets); err != nil {
		return nil, err
	}
	w = w.inTurn()
	l := &Link{}
	for _, k := range c.Kinds {
		speak, ok := speakers[k]
		if !ok {
			return nil, errors.Join(unknown(k), l.Close())
		}
		ch, err := speak(h, c, w)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		l.channels, l.kinds = append(l.channels, ch), append(l.kinds, k)
	}
	l.lay(c, w)
	return l, nil
}

// inTurn is w with its messages told one at a time, whichever channel they come by.
func (w *Worker) inTurn() *Worker {
	var mu sync.Mutex
	own := *w
	own.On = func(m Message) {
		mu.Lock()
		defer mu.Unlock()
		w.On(m)
	}
	return &own
}

// lay puts the descriptors where the protocols expect them, and says so in the
// environment.
func (l *Link) lay(c *Choice, w *Worker) {
	for _, ch := range l.channels {
		if g, ok := ch.(ground); ok {
			l.files = append(l.files, g.below()...)
		}
	}
	first := standard + len(l.files)
	for _, s := range w.Sockets {
		l.files = append(l.files, s.FD)
	}
	for _, ch := range l.channels {
		files, at := ch.files(), standard+len(l.files)
		if s, ok := ch.(settled); ok {
			at = s.number()
		} else if n := c.Settings.ReadyFD; at <= n && n < at+len(files) {
			at = n + 1
		}
		for standard+len(l.files) < at+len(files) {
			l.files = append(l.files, -1)
		}
		copy(l.files[at-standard:], files)
		for _, kv := range ch.env(first, at) {
			if !slices.Contains(l.env, kv) { // two protocols share a variable
				l.env = append(l.env, kv)
			}
		}
	}
}

// Files are the descriptors 3, 4, ... of the worker, in the launcher's numbers; -1
// is one that is closed. They stay the Link's and the listeners'.
func (l *Link) Files() []int { return slices.Clone(l.files) }

// Env are the worker's variables, KEY=VALUE; "LISTEN_PID=self" and
// "WATCHDOG_PID=self" among them, which internal/process completes.
func (l *Link) Env() []string { return slices.Clone(l.env) }

// Started lets go of what only the worker needs; call it once Start has returned,
// however it went.
func (l *Link) Started() {
	for _, c := range l.channels {
		c.started()
	}
}

// Drain asks the worker to finish by a message. What it returns is closed when
// the worker has finished what it had, though it may still run; nil when no
// protocol of this worker has such a message, and a signal must do. Call it once.
func (l *Link) Drain() <-chan struct{} {
	for _, c := range l.channels {
		if d, ok := c.(drainer); ok {
			if done := d.drain(); done != nil {
				return done
			}
		}
	}
	return nil
}

// Alone tells the worker that nothing of an older generation is left. Telling it
// again does nothing.
func (l *Link) Alone() {
	for _, c := range l.channels {
		if h, ok := c.(heir); ok {
			h.alone()
		}
	}
}

// Hint is what is known about why the worker is not ready, as a clause; or "".
func (l *Link) Hint() string {
	for _, c := range l.channels {
		if h, ok := c.(hinter); ok {
			if words := h.hint(); words != "" {
				return words
			}
		}
	}
	return ""
}

// Close ends all channels. It does not wait for a message that is being told.
func (l *Link) Close() error {
	var errs []error
	for _, c := range l.channels {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

// speaker makes a protocol's part for one worker.
type speaker func(*Hub, *Choice, *Worker) (channel, error)

// speakers are all protocols there are.
var speakers = map[Kind]speaker{
	KindTableflip:     openTableflip,
	KindSystemd:       openSystemd,
	KindServerStarter: openServerStarter,
	KindEinhorn:       openEinhorn,
	KindSocketmaster:  openSocketmaster,
	KindEndless:       openEndless,
	KindNode:          openNode,
	KindS6:            openS6,
}

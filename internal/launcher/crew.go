package launcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"baton/internal/control"
	"baton/internal/process"
)

// A launcher that is killed leaves its workers: they serve what they have, and who
// takes up the name next would share their port with them. So each launcher keeps the
// marks of its workers in a file beside its socket, and the next one of the name ends
// what is left of those. A worker does not begin before it is listed: one that nobody knew
// would have its sockets for ever.

// crewSuffix of that file.
const crewSuffix = ".workers"

// crewFile is what it holds.
type crewFile struct {
	Boot    string         `json:"boot"` // process.Boot
	Workers []process.Mark `json:"workers"`
}

// crew keeps the file.
type crew struct {
	path string
	log  *slog.Logger
	kick chan struct{}
	done chan struct{}

	mu     sync.Mutex
	fresh  []int           // being started, not looked at yet
	asking []chan struct{} // to be closed when those were
	marks  []process.Mark
	closed bool
}

// newCrew begins to keep the file, with those that were taken over from another launcher.
// Without a path there is none.
func newCrew(path string, over []process.Mark, log *slog.Logger) *crew {
	c := &crew{path: path, log: log, kick: make(chan struct{}, 1), done: make(chan struct{}), marks: over}
	go c.keep() // ends with close
	return c
}

// list notes a worker that is being started, and returns when it is in the file, or cannot be.
func (c *crew) list(pid int) {
	c.mu.Lock()
	if c.closed || c.path == "" {
		c.mu.Unlock()
		return
	}
	done := make(chan struct{})
	c.fresh, c.asking = append(c.fresh, pid), append(c.asking, done)
	select {
	case c.kick <- struct{}{}:
	default: // told already
	}
	c.mu.Unlock()
	<-done // what was kicked is done also after close
}

// close takes the file away: the workers have ended. If somebody who is listed lives on, as
// when he could not be taken over, the list stays for whoever comes next.
func (c *crew) close() {
	c.mu.Lock()
	c.closed = true
	close(c.kick)
	c.mu.Unlock()
	<-c.done
	if c.path == "" {
		return
	}
	if left, err := process.Left(c.marks); err == nil && len(left) > 0 {
		return
	}
	if err := os.Remove(c.path); err != nil && !errors.Is(err, fs.ErrNotExist) { // no worker was ever started
		c.log.Warn("the list of workers is left behind: " + err.Error())
	}
}

// keep lists at once who is new: of who is not listed yet nobody would know if the launcher
// were killed now. Who has ended is left out when nobody has been started for a while,
// since to find that takes a look at every process of the machine.
func (c *crew) keep() {
	defer close(c.done)
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	said, missed := false, false // an error; the last write
	write := func() {
		err := c.save()
		if missed = err != nil; !missed {
			return
		}
		quiet.Reset(pruneAfter) // a disk that is full may not be by then
		if !said {
			said = true
			c.log.Warn("the list of workers is not kept; a killed launcher's would not be found: " + err.Error())
		}
	}
	for {
		select {
		case _, open := <-c.kick:
			if !open {
				return
			}
			asking := c.add()
			write()
			for _, done := range asking {
				close(done)
			}
			quiet.Reset(pruneAfter)
		case <-quiet.C:
			if c.prune() || missed {
				write()
			}
		}
	}
}

const pruneAfter = time.Second

// add takes in those who were started. Only a child of this process that leads its group is
// a worker: a number that is another's by now never is. Who asked for it waits for the write.
func (c *crew) add() (asking []chan struct{}) {
	c.mu.Lock()
	pids := c.fresh
	asking = c.asking
	c.fresh, c.asking = nil, nil
	c.mu.Unlock()
	self := os.Getpid()
	for _, pid := range pids {
		if m, ok, err := process.MarkOf(pid); err == nil && ok && m.Parent == self && m.Group == pid {
			c.marks = append(slices.DeleteFunc(c.marks, func(old process.Mark) bool { return old.PID == pid }), m)
		}
	}
	return asking
}

// prune leaves out who has ended with all of his group, and says whether there was one.
func (c *crew) prune() bool {
	var ended []process.Mark
	for _, m := range c.marks {
		if now, ok, err := process.MarkOf(m.PID); err == nil && (!ok || now.Start != m.Start) {
			ended = append(ended, m)
		}
	}
	if len(ended) == 0 {
		return false
	}
	left, err := process.Left(ended)
	if err != nil {
		return false // who cannot be seen may be there
	}
	before := len(c.marks)
	c.marks = slices.DeleteFunc(c.marks, func(m process.Mark) bool {
		return slices.Contains(ended, m) && !slices.ContainsFunc(left, func(l process.Mark) bool { return l.Group == m.Group })
	})
	return len(c.marks) < before
}

func (c *crew) save() error {
	text, err := json.Marshal(crewFile{Boot: process.Boot(), Workers: c.marks})
	if err != nil {
		return err
	}
	return replace(c.path, append(text, '\n'))
}

// replace writes a file whole, and does not wait for the disk: it means nothing after the
// machine's next start, and while a disk took its time who had just been started would not
// be listed, and outlive a launcher that was killed then for good.
func replace(path string, text []byte) error {
	fresh := path + ".new" // nobody else writes it: the name is claimed
	if err := os.WriteFile(fresh, text, 0o600); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	return os.Rename(fresh, path)
}

// Left are the processes that a launcher of that name left which was killed. While one
// runs they are its workers. Its State knows them as well, where the list was not kept.
func Left(home, name string) ([]process.Mark, error) {
	marks, err := listed(home, name)
	if known := inState(home, name); len(known) > 0 {
		marks, err = append(marks, known...), nil
	}
	if err != nil {
		return nil, err
	}
	return process.Left(marks)
}

// inState are the workers of the State that run; nobody where it cannot be read.
func inState(home, name string) []process.Mark {
	file, err := os.Open(control.Beside(home, name, stateSuffix))
	if err != nil {
		return nil
	}
	defer file.Close() // only read
	s, err := stateIn(file, name)
	if err != nil || s == nil {
		return nil
	}
	return slices.DeleteFunc(s.Engine.Living(), func(m process.Mark) bool { return m.Group != m.PID })
}

// listed is what the list says, of this run of the machine.
func listed(home, name string) ([]process.Mark, error) {
	path := control.Beside(home, name, crewSuffix)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(text) == 0 { // as a machine leaves it that lost its power
		return nil, nil
	}
	var f crewFile
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if f.Boot != process.Boot() {
		return nil, nil
	}
	return f.Workers, nil
}

// Ending is how what is left is ended.
type Ending struct {
	Signal syscall.Signal       // first
	Grace  time.Duration        // until KILL
	Hurry  func() bool          // asked now and then: KILL now; nil: never
	Found  func([]process.Mark) // told whom there is to end, if anybody; nil: nobody is
	Spared []process.Mark       // not to be ended, nor their groups
}

// left are those that are to be ended.
func (by Ending) left(home, name string) ([]process.Mark, error) {
	left, err := Left(home, name)
	return slices.DeleteFunc(left, func(m process.Mark) bool {
		return slices.ContainsFunc(by.Spared, func(s process.Mark) bool { return s.Group == m.Group })
	}), err
}

// EndLeft ends them, and returns when they have ended. The name must be claimed, or
// whoever claims it meanwhile has its workers ended.
func EndLeft(home, name string, by Ending) error {
	return by.end(func() ([]process.Mark, error) { return by.left(home, name) })
}

// end ends whom look finds, until it finds nobody.
func (by Ending) end(look func() ([]process.Mark, error)) error {
	left, err := look()
	if err != nil || len(left) == 0 {
		return err
	}
	if by.Found != nil {
		by.Found(left)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	sig, limit, killed := by.Signal, time.Now().Add(by.Grace), false
	for {
		var failed error
		for _, m := range left {
			if sig != 0 {
				failed = errors.Join(failed, m.Signal(sig))
			}
		}
		sig = 0
		<-tick.C
		if left, err = look(); err != nil || len(left) == 0 {
			return err
		}
		switch late := time.Now().After(limit); {
		case killed && (late || failed != nil):
			return errors.Join(failed, fmt.Errorf("process %d, which a killed launcher left, does not end", left[0].PID))
		case !killed && (late || by.Hurry != nil && by.Hurry()):
			sig, limit, killed = syscall.SIGKILL, time.Now().Add(killTime), true
		}
	}
}

// ForgetLeft takes away the list of who was left, and the State that somebody could go
// on with.
func ForgetLeft(home, name string) error {
	var errs []error
	for _, suffix := range []string{crewSuffix, stateSuffix} {
		if err := os.Remove(control.Beside(home, name, suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// killTime is more than the kernel takes to end a process that can be ended.
const killTime = 5 * time.Second

// list is where the workers are listed; "" when nothing claims the name.
func (c *claim) list() string {
	if c.Claim == nil {
		return ""
	}
	return c.Beside(crewSuffix)
}

// clear ends what a killed launcher of the name has left, but for those that are taken
// over, before anything is bound.
func (r *parts) clear(spared []process.Mark) {
	if r.claim.Claim == nil {
		return
	}
	h := r.first.Handoff
	err := EndLeft(r.claim.Dir(), r.first.Name, Ending{
		Signal: h.DrainLadder()[0].Signal, Grace: h.DrainTimeout, Hurry: r.caught.ending, Spared: spared,
		Found: func(left []process.Mark) {
			r.manager.clearing(h.DrainTimeout + 2*killTime) // to the KILL and after it
			r.tell("a killed launcher of this name left processes, which are ended: " + pids(left))
		},
	})
	if err != nil {
		r.log.Warn(err.Error())
	}
	if !r.o.Before.upgraded { // else hooks and their kind are this process's own
		r.strays(spared)
	}
}

func pids(marks []process.Mark) string {
	words := make([]string, len(marks))
	for i, m := range marks {
		words[i] = strconv.Itoa(m.PID)
	}
	return join(words)
}

func join(words []string) string { return strings.Join(words, ", ") }

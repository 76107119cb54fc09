package launcher

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"baton/handoff"
	"baton/internal/config"
	"baton/internal/control"
	"baton/internal/event"
	"baton/internal/keep"
)

// operated is what the control socket needs of the engine. Each but Report and Glance posts to
// the engine's goroutine and returns; the answer comes from there, unless the engine
// ends first.
type operated interface {
	Report() *event.Report
	Glance() *event.Report
	Reload(done func(handoff.Verdict))
	ReloadIf(generation int, done func(handoff.Verdict))
	Rollback(done func(handoff.Verdict))
	Promote(step bool, answer func(error))
	Abort(answer func(error))
	Scale(n int, relative bool, answer func(int, error))
	Stop()
	End()
}

// controlled is the engine as control.Engine: answers that come to a function are
// waited for.
type controlled struct {
	engine operated
	ended  chan struct{} // closed by end
	tidy   *time.Timer   // nil: nobody tidies up after questions

	mu     sync.Mutex
	failed event.Event // the last newcomer that was rolled back
}

func newControlled(s operated) *controlled {
	t := time.AfterFunc(afterwards, tidy) // ends by itself, or with end
	return &controlled{engine: s, ended: make(chan struct{}), tidy: t}
}

// end says that the engine's Run has returned.
func (c *controlled) end() {
	if c.tidy != nil {
		c.tidy.Stop()
	}
	close(c.ended)
}

// asked has it tidied up after a question.
func (c *controlled) asked() {
	if c.tidy != nil {
		c.tidy.Reset(afterwards)
	}
}

// observe remembers why a newcomer failed: its verdict follows.
func (c *controlled) observe(e event.Event) {
	if e.Kind == event.RolledBack {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.failed = e
	}
}

// told turns the engine's verdict into that which is shown.
func (c *controlled) told(done func(event.Verdict)) func(handoff.Verdict) {
	return func(v handoff.Verdict) {
		shown := event.Verdict{Outcome: string(v.Outcome), Generation: v.Generation, Reason: v.Reason}
		c.mu.Lock()
		if shown.Outcome == control.RolledBack && c.failed.Generation == v.Generation {
			shown.Tail = c.failed.Tail
		}
		c.mu.Unlock()
		done(shown)
	}
}

func (c *controlled) Report() *event.Report {
	c.asked()
	return c.engine.Report()
}

func (c *controlled) Glance() *event.Report {
	c.asked()
	return c.engine.Glance()
}

func (c *controlled) Stop() { c.engine.Stop() }
func (c *controlled) End()  { c.engine.End() }

func (c *controlled) Ended() <-chan struct{} { return c.ended }

func (c *controlled) Reload(ifGeneration int, done func(event.Verdict)) {
	if ifGeneration == 0 {
		c.engine.Reload(c.told(done))
		return
	}
	c.engine.ReloadIf(ifGeneration, c.told(done))
}

func (c *controlled) Rollback(done func(event.Verdict)) { c.engine.Rollback(c.told(done)) }

func (c *controlled) Promote(step bool) error {
	return c.answer(func(answer func(error)) { c.engine.Promote(step, answer) })
}

func (c *controlled) Abort() error { return c.answer(c.engine.Abort) }

func (c *controlled) Scale(n int, relative bool) (workers int, err error) {
	err = c.answer(func(answer func(error)) {
		c.engine.Scale(n, relative, func(now int, err error) {
			workers = now
			answer(err)
		})
	})
	if err != nil {
		return 0, err
	}
	return workers, nil
}

// answer waits for an answer, or the engine's end.
func (c *controlled) answer(ask func(func(error))) error {
	got := make(chan error, 1)
	ask(func(err error) { got <- err })
	select {
	case err := <-got:
		return err
	case <-c.ended:
	}
	select {
	case err := <-got: // both had happened
		return err
	default:
		return errors.New("the launcher has ended")
	}
}

// claim is the application's name as this process's own, and the control socket that
// comes with it.
type claim struct {
	*control.Claim
	server *control.Server
	done   chan struct{} // closed when nothing is served any more

	wanted atomic.Pointer[config.Config] // whose control.group is to be let in; nil: none any more

	mu  sync.Mutex
	let int // the group that is let in; -1: none
}

// take claims the name, so that one application has one launcher. Only another one
// that has it is an error: without a directory there is no control socket, and
// everything else is as it should be.
func take(o Options, name string, log *slog.Logger) (*claim, error) {
	none := &claim{let: -1}
	if o.Home == nil {
		return none, nil
	}
	dir, err := o.Home()
	if before := o.Before; err == nil && before != nil && before.upgraded {
		// Without a claim all the same when the one before had none.
		if none.Claim, err = control.Resume(dir, name, before.files); errors.Is(err, keep.ErrMissing) {
			none.Claim, err = control.Take(dir, name)
		}
	} else if err == nil {
		none.Claim, err = control.Take(dir, name)
	}
	var taken *control.TakenError
	if errors.As(err, &taken) {
		return nil, err
	}
	if err != nil {
		log.Warn("no control socket: "+err.Error(), "directory", dir)
	}
	return none, nil
}

// keep names the claim's descriptors for the program that this process becomes.
func (c *claim) keep(f *keep.Files) error {
	if c.Claim == nil {
		return nil
	}
	return c.Claim.Keep(f)
}

// state is where the State lies; "": nowhere.
func (c *claim) state() string {
	if c.Claim == nil {
		return ""
	}
	return c.Beside(stateSuffix)
}

// serve answers on the control socket until leave.
func (c *claim) serve(e control.Engine, o control.Options) {
	if c.Claim == nil {
		return
	}
	log := o.Log
	l, err := c.Listen()
	if err != nil {
		log.Warn("no control socket: " + err.Error())
		return
	}
	c.server, c.done = control.New(e, o), make(chan struct{})
	go func() { // ends with leave
		defer close(c.done)
		if err := c.server.Serve(l); err != nil {
			log.Error("the control socket is not served any more: " + err.Error())
		}
	}()
}

// admit has the control socket let in the group of a configuration; the last one that
// was asked for counts. Looking it up may take its time: the engine does not call this.
func (c *claim) admit(log *slog.Logger) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wanted := c.wanted.Load()
	if c.server == nil || wanted == nil {
		return
	}
	gid, err := controlGroup(wanted)
	if err == nil && gid == c.let {
		return
	}
	c.let = gid
	c.server.Admit(gid)
	if err = errors.Join(err, c.Share(gid)); err != nil {
		log.Warn("control socket: "+err.Error(), "group", wanted.Control.Group)
	}
}

// leave gives up the name, once the engine has ended. Those who wait for the end of the
// launcher learn it by the end of the process, which is what follows.
func (c *claim) leave(log *slog.Logger) {
	c.wanted.Store(nil)
	if c.server != nil {
		c.server.Leave()
		<-c.done
	}
	if c.Claim == nil {
		return
	}
	if err := c.Close(); err != nil {
		log.Warn("the control socket is left behind: " + err.Error())
	}
}

package launcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"

	"baton/handoff"
	"baton/internal/config"
	"baton/internal/keep"
	"baton/internal/logs"
)

// outputs are where the launcher's own lines and its workers' go.
type outputs struct {
	o     Options
	queue *logs.Queue // of the launcher's own
	tee   *logs.Tee   // behind it
	pass  *logs.Passthrough

	// What follows is set by open, before there is a worker.
	inherit bool
	capture *logs.Capture // nil: it is not captured
	store   *logs.Store   // likewise
}

func newOutputs(o Options) *outputs {
	t := logs.NewTee(o.Log.Handler())
	return &outputs{o: o, queue: logs.NewQueue(t), tee: t, pass: logs.NewPassthrough(o.Stdout, o.Stderr)}
}

// open does what the configuration says of workers' output. It comes after the name was
// claimed: a store has one launcher. One that cannot be used costs the log, and not the
// application.
func (o *outputs) open(c *config.Config) {
	o.inherit = c.Logs.Output == config.OutputInherit
	if c.Logs.Output != config.OutputCapture {
		return
	}
	// Not into the store itself: there a record says how many lines are missing.
	log := slog.New(o.queue.To(o.o.Log.Handler()))
	if err := o.openStore(c, log); err != nil {
		log.Warn("the workers' output is not captured, and passes through: " + err.Error())
	}
}

func (o *outputs) openStore(c *config.Config, log *slog.Logger) error {
	if o.o.Logs == nil {
		return errors.New("there is no place for it")
	}
	dir, err := o.o.Logs()
	if err != nil {
		return err
	}
	o.store, err = logs.OpenStore(logs.StoreOptions{
		Directory: logs.Directory(dir, c.Name), MaxSize: c.Logs.MaxSize, MaxAge: c.Logs.MaxAge, Keep: c.Logs.Keep,
		Compress: c.Logs.Compress,
		Trouble:  func(err error) { log.Warn(fmt.Sprintf("the workers' output is not kept as it should be: %v", err)) },
	})
	if err != nil {
		o.store = nil
		return err
	}
	o.capture = logs.NewCapture(o.store)
	o.tee.Into(o.store, o.o.Kept)
	return nil
}

// worker opens the output of a worker.
func (o *outputs) worker(generation, index int) (handoff.Output, error) {
	if o.inherit {
		return inherited{}, nil
	}
	var out *logs.Output
	var err error
	if o.capture != nil {
		out, err = o.capture.Open(generation, index)
	} else {
		out, err = o.pass.Open()
	}
	if err != nil {
		return nil, err
	}
	return piped{out}, nil
}

// resume takes up the output of a worker of the launcher before this one.
func (o *outputs) resume(generation, index int, kept json.RawMessage, prefix string, f *keep.Files) (handoff.Output, error) {
	if o.inherit {
		return inherited{}, nil
	}
	var s logs.OutputState
	err := json.Unmarshal(kept, &s)
	if err != nil {
		return nil, err
	}
	var out *logs.Output
	if o.capture != nil {
		out, err = o.capture.Resume(s, prefix, f, generation, index)
	} else {
		out, err = o.pass.Resume(s, prefix, f)
	}
	if out == nil {
		return nil, err
	}
	return piped{out}, err
}

// outputIs says why nothing can be made of what was kept of an output.
func outputIs(kept json.RawMessage) error {
	if len(kept) == 0 {
		return nil
	}
	var s logs.OutputState
	return json.Unmarshal(kept, &s)
}

// pause stops all copying where nothing that was read is unwritten, for as long as this
// process may become another program.
func (o *outputs) pause(log *slog.Logger) (unpause func()) {
	errs := []error{o.pass.Pause()}
	if o.capture != nil {
		errs = append(errs, o.capture.Pause(), o.store.Sync())
	}
	if err := errors.Join(errs...); err != nil {
		log.Warn("some of the workers' output may be lost by the upgrade: " + err.Error())
	}
	o.queue.Sync()
	return func() {
		o.pass.Unpause()
		if o.capture != nil {
			o.capture.Unpause()
		}
	}
}

// reopen, flush and reopenSoon are nil when there is no store.
func (o *outputs) reopen() func() error {
	if o.store == nil {
		return nil
	}
	return o.store.Reopen
}

func (o *outputs) flush() func() error {
	if o.store == nil {
		return nil
	}
	return o.store.Flush
}

func (o *outputs) reopenSoon() func() {
	if o.store == nil {
		return nil
	}
	return o.store.ReopenSoon
}

// close writes what there is left; why is the reason of an end that is a failure.
func (o *outputs) close(why error) {
	var wg sync.WaitGroup // together: they may wait for the same reader
	wg.Go(o.pass.Close)
	wg.Go(o.queue.Close)
	if o.capture != nil {
		wg.Go(o.capture.Close)
	}
	wg.Wait()
	if o.store == nil {
		return
	}
	if why != nil {
		o.store.Say("error", "baton ends: "+why.Error())
	}
	o.store.Close()
}

// piped is the output of a worker that the launcher reads.
type piped struct{ *logs.Output }

// Keep is handoff.Output's.
func (p piped) Keep(prefix string, f *keep.Files) any { return p.Output.Keep(prefix, f) }

// inherited is the output of a worker that writes to the launcher's own
// standard output and error: nothing passes through, and nothing is kept. The
// descriptors are named by number, because os.File.Fd would change O_NONBLOCK
// for everybody who has them open.
type inherited struct{}

func (inherited) Stdout() int { return syscall.Stdout }

func (inherited) Stderr() int { return syscall.Stderr }

func (inherited) Started(int) {}

func (inherited) Tail() []string { return nil }

func (inherited) Keep(string, *keep.Files) any { return nil }

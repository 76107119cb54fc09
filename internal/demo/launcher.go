package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"baton/internal/load"
	"baton/internal/process"
)

// launcher is baton itself as a child, and what it logs.
type launcher struct {
	process *process.Process
	release *process.Release
	events  chan event    // closed when nobody holds the log's pipe any more
	said    []event       // those that await has read, for another await
	ended   chan struct{} // closed by stop: nobody reads events any more
}

// event is a line of the launcher's log.
type event struct {
	Kind       string `json:"event"`
	Level      string `json:"level"`
	Message    string `json:"msg"`
	Generation int    `json:"generation"`
	Address    string `json:"address"`
	Mode       string `json:"mode"`
	Reason     string `json:"reason"`
}

// hostPort of the listener's canonical address, tcp://127.0.0.1:8080.
func (e event) hostPort() string {
	_, address, _ := strings.Cut(e.Address, "://")
	return address
}

// configuration of a round: drain_delay is the 100 ms after which launchers with
// one socket send TERM.
const configuration = `name = "demo"

[[listen]]
name = "web"
address = "127.0.0.1:0"
steering = %q

[handoff]
drain_delay = "100ms"
drain_timeout = "10s"

[log]
format = "json"
`

func launch(ctx context.Context, o Options, dir, steering string) (*launcher, error) {
	path := filepath.Join(dir, steering+".toml")
	if err := os.WriteFile(path, fmt.Appendf(nil, configuration, steering), 0o600); err != nil {
		return nil, err
	}
	command := append(append([]string{}, o.Launcher...), "run", "--config", path, "--")
	release, err := process.Resolve(process.Command{
		Exec: append(command, o.Target...),
		Env:  []string{"BATON_HOME=" + dir}, // its state goes with the directory
	})
	if err != nil {
		return nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, release.Close())
	}
	defer writer.Close()
	p, err := process.Start(ctx, process.Spec{
		Release: release, Env: release.Env(), Stdin: -1, Stdout: -1, Stderr: int(writer.Fd()),
	})
	if err != nil {
		return nil, errors.Join(err, reader.Close(), release.Close())
	}
	l := &launcher{process: p, release: release, events: make(chan event), ended: make(chan struct{})}
	go l.read(reader)
	return l, nil
}

// read turns the log into events. It ends when the launcher and its workers,
// which have the same stderr, are gone.
func (l *launcher) read(log *os.File) {
	defer log.Close()
	defer close(l.events)
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			e = event{Message: lines.Text()} // a worker's own words
		}
		select {
		case l.events <- e:
		case <-l.ended: // read on, so that nobody blocks on a full pipe
		}
	}
}

// slow is longer than any step of a swap takes.
const slow = 20 * time.Second

// await reads on until the event comes, and takes it out of those read. A
// rollback, a refusal, or the launcher's end is an error instead.
func (l *launcher) await(ctx context.Context, want event) (event, error) {
	for i, e := range l.said {
		if e.Kind == want.Kind && e.Generation == want.Generation {
			l.said = append(l.said[:i:i], l.said[i+1:]...)
			return e, nil
		}
	}
	limit := time.NewTimer(slow)
	defer limit.Stop()
	last := ""
	for {
		select {
		case e, ok := <-l.events:
			switch {
			case !ok:
				return e, fmt.Errorf("the launcher ended: %s", last)
			case e.Kind == want.Kind && e.Generation == want.Generation:
				return e, nil
			case e.Kind == "rolledback" || e.Kind == "refused":
				return e, errors.New(e.Message)
			}
			last = e.Message
			l.said = append(l.said, e)
		case <-ctx.Done():
			return event{}, ctx.Err()
		case <-limit.C:
			return event{}, fmt.Errorf("generation %d: not %s within %v", want.Generation, want.Kind, slow)
		}
	}
}

// swaps swaps o.Swaps times over o.Time: each swap is from its HUP until nothing
// of the old generation is left, and the time between swaps is steady.
func (l *launcher) swaps(ctx context.Context, o Options, r *load.Runner) error {
	begin := time.Now()
	for i := range o.Swaps {
		// The swaps stand in the middle of equal parts of the time.
		if err := until(ctx, begin.Add(o.Time*time.Duration(2*i+1)/time.Duration(2*o.Swaps))); err != nil {
			return err
		}
		r.Mark()
		if err := l.swap(ctx, i+1); err != nil {
			return err
		}
		r.Settle()
	}
	return until(ctx, begin.Add(o.Time))
}

// swap hands over from a generation to the next.
func (l *launcher) swap(ctx context.Context, from int) error {
	if err := l.process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	if _, err := l.await(ctx, event{Kind: "serving", Generation: from + 1}); err != nil {
		return err
	}
	_, err := l.await(ctx, event{Kind: "gone", Generation: from})
	l.said = nil // nothing in it is waited for any more
	return err
}

func until(ctx context.Context, t time.Time) error {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop ends the launcher, gracefully if it will, and waits until nothing of it is
// left.
func (l *launcher) stop() (err error) {
	close(l.ended)
	defer func() {
		if left := l.release.Close(); err == nil {
			err = left
		}
	}()
	if err := l.process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-l.process.Done():
	case <-time.After(slow):
		// QUIT first: it ends the workers too, which KILL would leave behind.
		err = l.process.Signal(syscall.SIGQUIT)
		select {
		case <-l.process.Done():
		case <-time.After(slow):
			err = errors.Join(err, l.process.Kill())
			<-l.process.Done()
		}
		return errors.Join(fmt.Errorf("the launcher did not end within %v of TERM", slow), err)
	}
	if s := l.process.Status(); s.Code != 0 {
		return fmt.Errorf("the launcher ended with %v", s)
	}
	return nil
}

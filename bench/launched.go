package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"baton/internal/event"
)

// patience bounds every wait for something that takes milliseconds when all is well.
const patience = 40 * time.Second

var errEnded = errors.New("exit status 0")

// launched is a running server, bare or under a launcher.
type launched struct {
	cmd     *exec.Cmd
	address string // host:port it serves on
	stamps  string // file of the server's stamps; "" without
	done    chan struct{}
	err     error // of the exit, after done

	mu     sync.Mutex
	events []event.Event // that the launcher logged
	other  []string      // what else came over stderr, for a message when all fails
}

// command is exec.CommandContext with an end that lets a launcher end its workers.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	return cmd
}

// bare starts the server on a socket of its own.
func (b *bench) bare(ctx context.Context) (*launched, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return b.launch(ctx, command(ctx, b.server, "-listen", address), address, "")
}

// underBaton starts the server under baton, with flags of `baton run` besides.
func (b *bench) underBaton(ctx context.Context, flags ...string) (*launched, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	stamps := filepath.Join(b.dir, "stamps-"+strings.ReplaceAll(address, ":", "-"))
	args := append([]string{"run", "--listen", address, "--log", "json"}, flags...)
	cmd := command(ctx, b.baton, append(args, "--", b.server, "-stamps", stamps)...)
	cmd.Env = append(os.Environ(), "BATON_HOME="+stamps+"-home") // several of one name run at once
	return b.launch(ctx, cmd, address, stamps)
}

// launch returns once the server answers. It is ended with the part at the latest.
func (b *bench) launch(ctx context.Context, cmd *exec.Cmd, address, stamps string) (*launched, error) {
	l := &launched{cmd: cmd, address: address, stamps: stamps, done: make(chan struct{})}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b.running = append(b.running, l)
	go func() { // ends with the process and whatever holds its stderr
		l.read(stderr)
		l.err = cmd.Wait()
		close(l.done)
	}()
	err = l.await(ctx, "an answer", func() bool {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
	return l, err
}

// stopAll ends what a part has left running.
func (b *bench) stopAll() error {
	var errs []error
	for _, l := range b.running {
		if err := l.stop(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w\n%s", l.cmd.Path, err, l.said()))
		}
	}
	b.running = nil
	return errors.Join(errs...)
}

func (l *launched) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event.Event
		bad := json.Unmarshal(lines.Bytes(), &e)
		l.mu.Lock()
		if bad == nil && e.Kind != "" {
			l.events = append(l.events, e)
		} else {
			l.other = append(l.other, lines.Text())
		}
		l.mu.Unlock()
	}
}

// find returns the first event of a kind and generation; generation 0 is any.
func (l *launched) find(kind event.Kind, generation int) (event.Event, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.Kind == kind && (generation == 0 || e.Generation == generation) {
			return e, true
		}
	}
	return event.Event{}, false
}

// awaitEvent waits until the launcher has logged such an event.
func (l *launched) awaitEvent(ctx context.Context, kind event.Kind, generation int) (event.Event, error) {
	var found event.Event
	err := l.await(ctx, fmt.Sprintf("%s of generation %d", kind, generation), func() (ok bool) {
		found, ok = l.find(kind, generation)
		return ok
	})
	return found, err
}

// await asks every millisecond whether it is so.
func (l *launched) await(ctx context.Context, what string, so func() bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.done:
			return fmt.Errorf("%s ended and brought no %s: %w\n%s", l.cmd.Path, what, cmp.Or(l.err, errEnded), l.said())
		case <-late:
			return fmt.Errorf("%s brought no %s within %v\n%s", l.cmd.Path, what, patience, l.said())
		}
	}
	return nil
}

// said is the end of what came over stderr.
func (l *launched) said() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.other
	for _, e := range l.events[max(0, len(l.events)-10):] {
		lines = append(lines, e.Message)
	}
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

func (l *launched) hup() error { return l.cmd.Process.Signal(syscall.SIGHUP) }

// stop ends it as a user would and waits for the end.
func (l *launched) stop() error {
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-l.done // comes within patience of the kill that command's context would bring
	var exit *exec.ExitError
	if errors.As(l.err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
		return nil // a launcher without a handler for TERM
	}
	return l.err
}

// stamp is one line of the server's own file.
type stamp struct {
	PID   int    `json:"pid"`
	Stamp string `json:"stamp"` // "main", "ready" or "first"
	At    int64  `json:"at"`    // nanoseconds since 1970
}

// awaitStamp waits until the process pid has left such a stamp.
func (l *launched) awaitStamp(ctx context.Context, pid int, what string) (time.Time, error) {
	var at time.Time
	err := l.await(ctx, fmt.Sprintf("stamp %s of pid %d", what, pid), func() (ok bool) {
		at, ok = readStamp(l.stamps, pid, what)
		return ok
	})
	return at, err
}

func readStamp(file string, pid int, what string) (time.Time, bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return time.Time{}, false
	}
	for line := range strings.Lines(string(text)) {
		var s stamp
		if json.Unmarshal([]byte(line), &s) == nil && s.PID == pid && s.Stamp == what {
			return time.Unix(0, s.At), true
		}
	}
	return time.Time{}, false
}

// freeAddress is a port that nobody listens on now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

package testkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// worker is the target while it runs.
type worker struct {
	behave  behaviours
	sockets []*socket
	packets []net.PacketConn
	server  *http.Server
	term    chan os.Signal
	failed  chan error
	asked   atomic.Int64 // how often /healthz was
	sick    atomic.Int64 // how often it will still answer 500
	silent  atomic.Bool  // no WATCHDOG=1 any more

	mu     sync.Mutex
	leaked [][]byte
}

// target runs the program and returns its exit code.
func target(words []string) int {
	b, err := parse(words)
	if err != nil {
		fmt.Fprintln(os.Stderr, "target:", err)
		return 2
	}
	w := &worker{behave: b, term: make(chan os.Signal, 1), failed: make(chan error, 1)}
	code, err := w.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "target:", err)
		return 1
	}
	return code
}

// run takes the sockets, serves, and returns when told to end.
func (w *worker) run() (int, error) {
	w.handleTerm()
	if err := w.prepare(); err != nil {
		return 0, err
	}
	if code, ok := w.behave["exit"]; ok {
		w.lastWords()
		return strconv.Atoi(code)
	}
	if err := w.open(); err != nil {
		return 0, err
	}
	if err := w.leaveChild(); err != nil {
		return 0, err
	}
	w.serve()
	if err := w.sayReady(); err != nil {
		return 0, err
	}
	if d, ok := w.behave["watchdog"]; ok {
		go w.watchdog(duration(d)) // ends with the process, or when it is silenced
	}
	if d, ok := w.behave["crash"]; ok {
		time.AfterFunc(duration(d), func() {
			w.lastWords()
			panic("target: crash, as it was told")
		})
	}
	if n, err := strconv.Atoi(w.behave["leak"]); err == nil {
		go w.leak(n)
	}
	select {
	case err := <-w.failed:
		return 0, err
	case <-w.term:
		return w.end()
	}
}

// handleTerm comes before anything else, so that a signal finds its handler.
func (w *worker) handleTerm() {
	switch kind := w.behave["term"]; {
	case kind == "ignore":
		signal.Ignore(syscall.SIGTERM)
	case kind == "die" || w.behave["server"] == "minimal" || w.behave["server"] == "serial":
	case slices.Contains(strings.Split(w.behave["record"], ","), "TERM"):
	default:
		signal.Notify(w.term, syscall.SIGTERM)
	}
	if names, ok := w.behave["record"]; ok {
		w.record(strings.Split(names, ","))
	}
}

// record prints each of these signals when it comes.
func (w *worker) record(names []string) {
	known := map[string]os.Signal{"QUIT": syscall.SIGQUIT, "TERM": syscall.SIGTERM, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2}
	for _, name := range names {
		came := make(chan os.Signal, 16)
		signal.Notify(came, known[name])
		go func() { // ends with the process
			for range came {
				fmt.Fprintf(os.Stdout, "pid %d got %s\n", os.Getpid(), name)
			}
		}()
	}
}

func (w *worker) prepare() error {
	if d, ok := w.behave["delay"]; ok {
		<-time.After(duration(d)) // a program that is slow to start
	}
	if lines, ok := w.behave["lines"]; ok {
		n, err := strconv.Atoi(lines)
		if err != nil {
			return err
		}
		for i := range n {
			fmt.Fprintf(os.Stdout, "stdout line %d of %d\n", i+1, n)
			fmt.Fprintf(os.Stderr, "stderr line %d of %d\n", i+1, n)
		}
	}
	if address, ok := w.behave["port"]; ok {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
		if err != nil {
			return err
		}
		go func() { _ = http.Serve(l, w.handler()) }() // ends with the process
	}
	return nil
}

func (w *worker) lastWords() {
	if words, ok := w.behave["words"]; ok {
		fmt.Fprintln(os.Stderr, words)
	}
}

// serve begins to accept on every socket.
func (w *worker) serve() {
	for _, p := range w.packets {
		go w.echo(p) // ends with the process
	}
	if server := w.behave["server"]; server == "minimal" || server == "serial" {
		for _, s := range w.sockets {
			go w.acceptLoop(s) // ends with the process
		}
		return
	}
	w.server = &http.Server{
		Handler:           w.handler(),
		ReadHeaderTimeout: time.Minute,
		BaseContext:       func(l net.Listener) context.Context { return withSocket(l.(*socket)) },
	}
	for _, s := range w.sockets {
		go func() { // ends with Shutdown
			err := w.server.Serve(s)
			if _, stay := w.behave["stay"]; !stay && !errors.Is(err, http.ErrServerClosed) {
				w.fail(err)
			}
		}()
	}
}

func (w *worker) fail(err error) {
	select {
	case w.failed <- err:
	default: // one cause of the end is enough
	}
}

// end is what a stock server does on TERM.
func (w *worker) end() (int, error) {
	if d, ok := strings.CutPrefix(w.behave["term"], "slow:"); ok {
		<-time.After(duration(d)) // a server that is slow to react
	}
	limit := 30 * time.Second
	if d, ok := w.behave["shutdown"]; ok {
		limit = duration(d)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return 0, w.server.Shutdown(ctx)
}

func (w *worker) leak(n int) {
	for range time.Tick(10 * time.Millisecond) { // ends with the process
		w.grow(n)
	}
}

// grow takes n bytes more and keeps them resident.
func (w *worker) grow(n int) {
	p := make([]byte, n)
	for i := 0; i < n; i += 4096 {
		p[i] = 1 // a page not written to is not resident
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leaked = append(w.leaked, p)
}

// duration of a behaviour; one that cannot be read ends the target.
func duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		fmt.Fprintln(os.Stderr, "target:", err)
		os.Exit(2)
	}
	return d
}

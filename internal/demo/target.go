package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"baton/internal/load"
)

// Serve is the server that the demo swaps: stock net/http on the sockets in
// LISTEN_FDS, and Shutdown on TERM, as its documentation has it. It knows nothing
// of baton.
func Serve() error {
	listeners, err := inherited()
	if err != nil {
		return err
	}
	term, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := &http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: time.Minute}
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { failed <- server.Serve(l) }() // ends with Shutdown
	}
	select {
	case err := <-failed:
		return err
	case <-term.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return server.Shutdown(ctx)
}

// inherited are the sockets that sd_listen_fds(3) would find.
func inherited() ([]net.Listener, error) {
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 1 || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, errors.New("no sockets in LISTEN_FDS: this command is baton's own, for its demo")
	}
	listeners := make([]net.Listener, n)
	for i := range listeners {
		f := os.NewFile(uintptr(3+i), fmt.Sprintf("LISTEN_FD_%d", 3+i))
		listeners[i], err = net.FileListener(f)
		f.Close() // the listener has a copy
		if err != nil {
			return nil, fmt.Errorf("descriptor %d: %w", 3+i, err)
		}
	}
	return listeners, nil
}

const bodySize = 64 // bytes

func answer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set(load.HeaderPID, strconv.Itoa(os.Getpid()))
	w.Header().Set(load.HeaderPattern, strconv.Itoa(bodySize))
	_, _ = w.Write(load.Pattern(0, bodySize)) // the client counts what is missing
}

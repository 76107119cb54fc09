// Command go-plain is a server on the standard library alone. Two things are for
// baton, or for systemd, whose convention this is: the socket is descriptor 3, and
// TERM means: accept no more, finish what there is, end.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	l, err := listener()
	if err != nil {
		log.Fatal(err)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)

	server := &http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 10 * time.Second}
	go func() { // ends with Shutdown
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	<-term
	// Without a limit: baton's drain_timeout is one. Connections that are idle now are
	// closed at once; go-worker shows how their clients are told first.
	if err := server.Shutdown(context.Background()); err != nil {
		log.Fatal(err)
	}
}

// listener is the first socket that was passed: descriptor 3, see sd_listen_fds(3).
func listener() (net.Listener, error) {
	if os.Getenv("LISTEN_FDS") == "" {
		return nil, errors.New("no socket was passed: start this with baton run")
	}
	f := os.NewFile(3, "LISTEN_FD_3")
	defer f.Close() // the listener has a copy
	return net.FileListener(f)
}

func answer(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/slow" {
		time.Sleep(300 * time.Millisecond)
	}
	w.Header().Set("X-Generation", os.Getenv("BATON_GENERATION"))
	fmt.Fprintln(w, "hello from net/http")
}

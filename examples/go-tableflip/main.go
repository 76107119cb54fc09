// Command go-tableflip is a server that replaces itself on HUP, by tableflip, as that
// package's documentation has it. It knows nothing of baton, which takes the place of
// its parent: a swap is an upgrade to it. baton keeps HUP for itself and never sends
// it here.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cloudflare/tableflip"
)

func main() {
	address := flag.String("listen", "127.0.0.1:8080", "host:port")
	flag.Parse()
	if err := serve(*address); err != nil {
		log.Fatal(err)
	}
}

func serve(address string) error {
	upgrader, err := tableflip.New(tableflip.Options{})
	if err != nil {
		return err
	}
	defer upgrader.Stop()

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	go func() { // ends with the process
		for s := range signals {
			if s == syscall.SIGTERM {
				upgrader.Stop()
			} else if err := upgrader.Upgrade(); err != nil {
				log.Print("upgrade: ", err)
			}
		}
	}()

	// The parent's socket, where it has one of just this address. Before Ready, which
	// closes those that nobody asked for.
	l, err := upgrader.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 10 * time.Second}
	go func() { // ends with Shutdown
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	if err := upgrader.Ready(); err != nil {
		return err
	}
	<-upgrader.Exit()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return server.Shutdown(ctx)
}

func answer(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/slow" {
		time.Sleep(300 * time.Millisecond)
	}
	w.Header().Set("X-Generation", os.Getenv("BATON_GENERATION"))
	fmt.Fprintln(w, "hello from tableflip")
}

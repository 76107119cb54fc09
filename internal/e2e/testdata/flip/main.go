// Command flip serves on cloudflare/tableflip until TERM. With "own PATH" it is a
// program that was given its socket as descriptor 3, as under systemd's socket
// activation, and tells its Upgrader of it; its Upgrader unlinks the unix sockets that
// it knows when it stops. With "listen NETWORK ADDRESS" it asks its Upgrader for
// the socket, as tableflip's users do.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cloudflare/tableflip"
)

func main() {
	if err := serve(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "flip:", err)
		os.Exit(1)
	}
}

func serve(args []string) error {
	upg, err := tableflip.New(tableflip.Options{})
	if err != nil {
		return err
	}
	l, err := listener(upg, args)
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Generation", os.Getenv("BATON_GENERATION"))
		fmt.Fprintln(w, os.Getpid())
	})}
	go func() { _ = server.Serve(l) }() // ends with Shutdown
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	if err := upg.Ready(); err != nil {
		return err
	}
	go func() { // ends with the process
		if upg.WaitForParent(context.Background()) == nil {
			fmt.Println("the parent is gone for", os.Getenv("BATON_GENERATION"))
		}
	}()
	<-term
	upg.Stop()
	<-upg.Exit() // it has unlinked by then
	return server.Shutdown(context.Background())
}

func listener(upg *tableflip.Upgrader, args []string) (net.Listener, error) {
	switch {
	case len(args) == 2 && args[0] == "own":
		l, err := net.FileListener(os.NewFile(3, args[1]))
		if err != nil {
			return nil, err
		}
		return l, upg.AddListener("unix", args[1], l.(*net.UnixListener))
	case len(args) == 3 && args[0] == "listen":
		return upg.Listen(args[1], args[2])
	}
	return nil, errors.New("own PATH, or listen NETWORK ADDRESS")
}

// Command go-systemd is a server as it is written for socket activation by systemd,
// with the packages activation and daemon of github.com/coreos/go-systemd. It knows
// nothing of baton, which speaks the same protocol.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

func main() {
	named, err := activation.ListenersWithNames()
	if err != nil {
		log.Fatal(err)
	}
	if len(named["http"]) != 1 {
		log.Fatalf("one socket named http is wanted, these were passed: %v", named)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)

	server := &http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 10 * time.Second}
	go func() { // ends with Shutdown
		if err := server.Serve(named["http"][0]); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Fatal(err)
	}
	<-term
	if _, err := daemon.SdNotify(false, daemon.SdNotifyStopping); err != nil {
		log.Print(err)
	}
	if err := server.Shutdown(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/slow" {
		time.Sleep(300 * time.Millisecond)
	}
	w.Header().Set("X-Generation", os.Getenv("BATON_GENERATION"))
	fmt.Fprintln(w, "hello from go-systemd")
}

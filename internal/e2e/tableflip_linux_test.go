package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/cloudflare/tableflip"

	"baton/internal/load"
	"baton/internal/testkit"
)

// tableflipArg as first argument makes this binary a program built on tableflip
// that was given its socket, as one under systemd's socket activation is.
const tableflipArg = "tableflip-target"

// tableflipTarget serves on descriptor 3, whose path is args[0], until TERM.
// Its Upgrader unlinks the unix sockets that it knows when it stops.
func tableflipTarget(path string) error {
	upg, err := tableflip.New(tableflip.Options{})
	if err != nil {
		return err
	}
	l, err := net.FileListener(os.NewFile(3, path))
	if err != nil {
		return err
	}
	if err := upg.AddListener("unix", path, l.(*net.UnixListener)); err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(load.HeaderGeneration, os.Getenv("BATON_GENERATION"))
		fmt.Fprintln(w, os.Getpid())
	})}
	go func() { _ = server.Serve(l) }() // ends with Shutdown
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	if err := upg.Ready(); err != nil {
		return err
	}
	<-term
	upg.Stop()
	<-upg.Exit() // it has unlinked by then
	return server.Shutdown(context.Background())
}

// A program built on tableflip unlinks the path of its unix socket when it
// stops, although its successor serves there: the path comes back.
func TestATableflipProgramDoesNotTakeThePathWithIt(t *testing.T) {
	testkit.Leaks(t)
	path := shortDir(t) + "/web.sock"
	a := run(t, config(t, []string{testkit.Target()[0], tableflipArg, path}, quick, listen("web", "unix://"+path)))
	for range 5 {
		from := a.Next()
		a.HUP()
		a.serving(a.last + 1)
		a.gone(a.last - 1)
		a.WaitLogFrom(from, "unlinked on unix://"+path)
		if g := served(t, a.address("web")); g != fmt.Sprint(a.last) {
			t.Errorf("served by generation %s, want %d", g, a.last)
		}
	}
	a.Stop()
}

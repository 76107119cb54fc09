// Command go-worker is a server on the package baton/worker: started by hand it opens
// its port, under baton or a .socket unit of systemd it is given it; it says when it
// is ready; and when it drains, each client that keeps its connection open is told so
// by the next answer, so that not even one that never repeats a request loses one.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"baton/worker"
)

func main() {
	l, err := worker.Listen("http", "127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 10 * time.Second}
	if err := worker.Serve(context.Background(), server, l); err != nil { // until TERM
		log.Fatal(err)
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/slow" {
		time.Sleep(300 * time.Millisecond)
	}
	w.Header().Set("X-Generation", os.Getenv("BATON_GENERATION"))
	fmt.Fprintln(w, "hello from baton/worker")
}

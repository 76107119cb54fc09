// Command grace is a server that is written for github.com/facebookgo/grace and
// knows nothing of any launcher: with a socket that was left to it, it tells its
// parent by TERM to end once it serves, and ends itself when that fails.
package main

import (
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/facebookgo/grace/gracehttp"
)

func main() {
	err := gracehttp.Serve(&http.Server{
		Addr:              os.Args[1],
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Generation", os.Getenv("BATON_GENERATION"))
			fmt.Fprintln(w, os.Getpid())
		}),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "grace:", err)
		os.Exit(1)
	}
}

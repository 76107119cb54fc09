// Command endless is a server that is written for github.com/fvbock/endless and
// knows nothing of any launcher: with a socket that was left to it, it tells its
// parent by TERM to end before it serves.
package main

import (
	"fmt"
	"net/http"
	"os"

	"github.com/fvbock/endless"
)

func main() {
	err := endless.ListenAndServe(os.Args[1], http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Generation", os.Getenv("BATON_GENERATION"))
		fmt.Fprintln(w, os.Getpid())
	}))
	fmt.Fprintln(os.Stderr, "endless:", err) // on TERM: that its listener is closed
}

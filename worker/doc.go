// Package worker is for Go servers that are handed their listening sockets, so
// that they can be replaced without losing a request: by baton, by a .socket unit
// of systemd, or by anything else that speaks sd_listen_fds(3). Started by hand, the
// same program opens its sockets itself. A server needs two calls:
//
//	l, err := worker.Listen("http", ":8080")
//	...
//	err = worker.Serve(ctx, &http.Server{Handler: mux}, l)
//
// The promise is Serve's: what was accepted, or waits to be, is answered before the
// process ends, and a client that keeps its connection open is told of the end by the
// answer to its next request, not by a connection that closes under it. Only one that
// stays silent for 5 s is not waited for.
//
// The package imports the standard library alone, and no other package of baton
// imports it. Importing it does nothing: variables are read by the first call that
// needs them, and unset then, so that no child process takes them for its own. It
// never starts a process and never replaces one; that is the launcher's part. Where
// there is no such launcher (any system but Linux), Listen opens, and Ready, Status,
// Stopping and Watchdog do nothing.
package worker

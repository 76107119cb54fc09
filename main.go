// Command baton starts a server, owns its listening sockets, and replaces the
// server without losing a connection. See README.md.
package main

import (
	"os"

	"baton/internal/cli"
	"baton/internal/process"
)

func main() {
	process.Main()
	os.Exit(cli.Main(os.Args, os.Stdout, os.Stderr))
}

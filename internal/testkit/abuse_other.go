//go:build !linux

package testkit

import (
	"errors"
	"net/http"
)

var errLinux = errors.New("testkit: abuse of sockets is written for Linux alone")

func (w *worker) abuse(rw http.ResponseWriter, _ *http.Request) {
	http.Error(rw, errLinux.Error(), http.StatusNotImplemented)
}

func (w *worker) spawnHolder(string) (int, error) { return 0, errLinux }

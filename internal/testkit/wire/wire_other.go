//go:build !linux

package wire

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"testing"
)

var errLinux = errors.New("wire: network namespaces are Linux's")

// Wire is written for Linux alone.
type Wire struct{}

// New skips the test.
func New(t testing.TB, _ Options) *Wire { t.Skip(errLinux); return nil }

// Stats is empty.
func (*Wire) Stats() Stats { return Stats{} }

// ServerCommand fails.
func (*Wire) ServerCommand(*exec.Cmd) error { return errLinux }

// Server fails.
func (*Wire) Server(func() error) error { return errLinux }

// Dial fails.
func (*Wire) Dial(context.Context, string, string) (net.Conn, error) { return nil, errLinux }

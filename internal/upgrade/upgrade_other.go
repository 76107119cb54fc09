//go:build !linux

package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os"

	"baton/internal/keep"
)

func missing() error {
	return fmt.Errorf("upgrade: one program takes another's place on Linux only: %w", errors.ErrUnsupported)
}

func exit(code int) { os.Exit(code) }

func helper() error { return missing() }

func (p *Prover) run() error { return missing() }

func resume(string) ([]byte, *keep.Files, error) { return nil, nil, missing() }

// Proof is a program that can take over; there is none on this system.
type Proof struct {
	Version string
}

// Prove says that this system is not served.
func Prove(context.Context, Options) (*Proof, error) { return nil, missing() }

// Exec is never called.
func (p *Proof) Exec(_, _ []string, _ []byte, _ *keep.Files) error { return missing() }

// Close is never called.
func (p *Proof) Close() {}

package socket

import (
	"context"
	"errors"
)

// Adopt makes a Listener of a socket that came from elsewhere.
func Adopt(ctx context.Context, fd int, a Address, o Options) (Listener, error) {
	return nil, errors.New("not yet")
}

// AddressOf tells where a listening socket listens.
func AddressOf(fd int) (Address, error) { return Address{}, errors.New("not yet") }

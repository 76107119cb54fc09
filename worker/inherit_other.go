//go:build !linux

package worker

// adopt takes nothing here: Listen opens its own sockets.
func adopt(int) (*socket, error) { return nil, nil }

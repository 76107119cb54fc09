package socket

import "context"

// Listen binds a and makes it ready: slot 0 exists, listens, and receives all
// connections. ctx bounds the resolution of a host name.
// Errors name the address and the cause: "listen tcp :80: permission denied".
func Listen(ctx context.Context, a Address, o Options) (Listener, error) {
	if o.Name == "" {
		o.Name = a.String()
	}
	if a.Network == "unix" {
		return listenUnix(ctx, a, o)
	}
	return listenInet(ctx, a, o)
}

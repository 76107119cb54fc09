package worker

import (
	"context"
	"net"
	"os"
	"strings"
	"sync"
)

// manager is where sd_notify(3) messages go; "" where nobody wants them.
var manager = sync.OnceValue(func() string {
	address := os.Getenv("NOTIFY_SOCKET")
	_ = os.Unsetenv("NOTIFY_SOCKET") // fails for names that no variable can have
	return address
})

// Ready says that the process serves (READY=1). Call it when every listener is
// accepted from, not before: the launcher may steer all connections here at once.
// [Serve] calls it by itself.
//
// Like [Status], [Stopping] and [Notify] it does nothing where nobody listens: without
// NOTIFY_SOCKET. The first call of any of them unsets that variable, so a program
// that speaks sd_notify by another package too should do all of it by one of them.
// The error is that of the datagram's socket.
func Ready() error { return Notify("READY=1") }

// Status says in a line what the process is doing (STATUS=), for people who look at
// baton status or systemctl status. Line breaks become blanks.
func Status(text string) error {
	return Notify("STATUS=" + strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), " "))
}

// Stopping says that the process is about to end by itself (STOPPING=1): baton steers
// around it and starts another. After the launcher's own signal it is news to nobody.
// [Serve] calls it by itself.
func Stopping() error { return Notify("STOPPING=1") }

// Notify sends lines of KEY=VALUE, separated by line breaks, as one message to
// NOTIFY_SOCKET, a path or an abstract name ("@..."): "EXTEND_TIMEOUT_USEC=5000000",
// "WATCHDOG=trigger". sd_notify(3) lists them; for WATCHDOG=1 there is [Watchdog].
func Notify(state string) error {
	address := manager()
	if address == "" {
		return nil
	}
	c, err := (&net.Dialer{}).DialContext(context.Background(), "unixgram", address)
	if err != nil {
		return err
	}
	defer c.Close() // the message has left, or its error says more
	_, err = c.Write([]byte(state))
	return err
}

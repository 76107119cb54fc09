package worker

import (
	"errors"
	"net"
	"testing"
	"time"

	"baton/internal/testkit"
)

// late is a listener whose first accept in a drain is called when its time is over
// already, as that of a goroutine that a busy machine did not run.
type late struct {
	*net.TCPListener
	calls int
}

func (l *late) Accept() (net.Conn, error) {
	if l.calls++; l.calls == 1 {
		<-time.After(quiet + 50*time.Millisecond) // the goroutine does not run
	}
	return l.TCPListener.Accept()
}

func TestAnAcceptThatComesTooLateLosesNothingThatIsQueued(t *testing.T) {
	testkit.Leaks(t)
	l := &late{TCPListener: listen(t).(*net.TCPListener)}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	testkit.Wait(t, func() bool { return waiting(l) }, "the connection to be queued")
	q, err := newQueue(l)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.finish(); err != nil {
		t.Fatal(err)
	}
	c, err := q.Accept()
	if err != nil {
		t.Fatalf("%v, with a connection in the queue", err)
	}
	c.Close()
	if c.RemoteAddr().String() != client.LocalAddr().String() {
		t.Errorf("accepted %s, want %s", c.RemoteAddr(), client.LocalAddr())
	}
	if _, err := q.Accept(); !errors.Is(err, errEmpty) {
		t.Errorf("then: %v, want %v", err, errEmpty)
	}
	if waiting(l) {
		t.Error("something is said to be queued when nothing is")
	}
}

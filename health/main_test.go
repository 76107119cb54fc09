package health

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const deadline = time.Minute

// visitor, when set, makes the test binary a probe's command; see visit.
const visitor = "BATON_TEST_VISITOR"

func TestMain(m *testing.M) {
	if os.Getenv(visitor) != "" {
		os.Exit(visit())
	}
	goleak.VerifyTestMain(m)
}

// visit asks through the door with an ordinary client: 0 for 200, 1 for another
// status, 2 when there was no answer.
func visit() int {
	client := &http.Client{Timeout: deadline}
	a, err := client.Get("http://" + os.Getenv(AddressVariable) + os.Getenv(visitor))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return 1
	}
	return 0
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(deadline)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %v: %s", deadline, what)
		}
	}
}

// to is a target that is dialed at an address as anybody would.
func to(network, address string) Target {
	return Target{Address: address, Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
}

// conduct listens and does with each connection what do says, one after the other.
func conduct(t *testing.T, do func(c *net.TCPConn)) Target {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	go func() { // ends when ln is closed
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(deadline))
			do(c.(*net.TCPConn))
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
		goleak.VerifyNone(t, leaks)
	})
	return to("tcp", ln.Addr().String())
}

// heard reads a request's header, to its empty line.
func heard(c net.Conn) {
	last := make([]byte, 4)
	for string(last) != "\r\n\r\n" {
		copy(last, last[1:])
		if _, err := io.ReadFull(c, last[3:]); err != nil {
			return
		}
	}
}

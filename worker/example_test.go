package worker_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"baton/worker"
)

// The whole of a server: under baton or systemd it is given the socket, started by
// hand it opens it, and it ends with TERM.
func Example() {
	l, err := worker.Listen("http", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })
	if err := worker.Serve(context.Background(), &http.Server{Handler: mux}, l); err != nil {
		log.Fatal(err)
	}
}

// Started by hand, nothing is inherited and the address is opened.
func ExampleListen() {
	l, err := worker.Listen("http", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	fmt.Println("listening on", l.Addr().Network())

	_, err = worker.Listen("admin", "") // only ever from the launcher
	fmt.Println(err)
	// Output:
	// listening on tcp
	// listen admin: no address to open, and nothing was inherited
}

func ExampleListeners() {
	named, err := worker.Listeners()
	if err != nil {
		log.Fatal(err)
	}
	for name, listeners := range named {
		fmt.Println(name, listeners[0].Addr())
	}
	fmt.Println(len(named), "names were inherited")
	// Output: 0 names were inherited
}

func ExamplePacketConns() {
	named, err := worker.PacketConns()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(named["dns"]), "sockets for dns were inherited")
	// Output: 0 sockets for dns were inherited
}

// A server of another kind says ready by itself, when it accepts.
func ExampleReady() {
	l, err := worker.Listen("echo", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	accepting := make(chan struct{})
	go func() {
		close(accepting)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	<-accepting
	fmt.Println(worker.Ready())
	l.Close()
	// Output: <nil>
}

func ExampleStatus() {
	fmt.Println(worker.Status("warming the cache, 40 %"))
	// Output: <nil>
}

// A worker that is about to end by itself says so, and is replaced.
func ExampleStopping() {
	fmt.Println(worker.Stopping())
	// Output: <nil>
}

// More time to start, for a cache that takes long to warm.
func ExampleNotify() {
	fmt.Println(worker.Notify("EXTEND_TIMEOUT_USEC=30000000"))
	// Output: <nil>
}

// A server that has locked itself up still runs, still accepts, and answers nothing. The
// check takes what every request takes; while it waits, the launcher hears nothing, and
// has the server replaced.
func ExampleWatchdog() {
	var mu sync.Mutex // of the server's own
	go func() {
		if err := worker.Watchdog(context.Background(), func() error {
			mu.Lock()
			defer mu.Unlock()
			return nil
		}); err != nil {
			log.Print(err)
		}
	}()
	// Started by hand, nobody watches.
	fmt.Println(worker.Watchdog(context.Background(), nil))
	// Output: <nil>
}

// The client keeps its connection open. When the server drains, the answer to its
// next request says that it is the last one here.
func ExampleServe() {
	l, err := worker.Listen("http", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	address := l.Addr().String()
	draining := make(chan (<-chan struct{}), 1)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/first" {
			draining <- worker.Draining(r.Context())
		}
		fmt.Fprint(w, "hello")
	})}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- worker.Serve(ctx, srv, l) }()

	c, err := net.Dial("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	answers := bufio.NewReader(c)
	ask := func(path string) {
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: example.com\r\n\r\n", path)
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Printf("%s: %s, close: %v\n", path, body, resp.Close)
	}
	ask("/first")
	stop() // as TERM does
	<-<-draining
	ask("/second")
	c.Close()
	fmt.Println("served until", <-ended)
	// Output:
	// /first: hello, close: false
	// /second: hello, close: true
	// served until <nil>
}

// Clients of this server keep idle connections for a minute and speak twice in it.
func ExampleServer() {
	l, err := worker.Listen("http", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &worker.Server{
		HTTP: &http.Server{Handler: http.NotFoundHandler()},
		Idle: 30 * time.Second,
		Ready: func() error {
			fmt.Println("every listener is accepted from")
			stop() // the end of the example
			return worker.Ready()
		},
	}
	fmt.Println(s.Serve(ctx, l))
	// Output:
	// every listener is accepted from
	// <nil>
}

// A response that goes on for as long as the client listens ends with the drain.
func ExampleDraining() {
	stream := func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				fmt.Fprintf(w, "data: %s\n\n", now.Format(time.TimeOnly))
				if http.NewResponseController(w).Flush() != nil {
					return
				}
			case <-worker.Draining(r.Context()):
				return // the client connects again, to the successor
			case <-r.Context().Done():
				return
			}
		}
	}
	http.HandleFunc("/events", stream)
	// What does not come from Serve never drains.
	fmt.Println(worker.Draining(context.Background()) == nil)
	// Output: true
}

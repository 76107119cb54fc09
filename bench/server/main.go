// Command server is what the benchmarks measure: a plain net/http server with
// one handler, the same whether it listens by itself or on a socket it was given.
// It takes sockets by systemd's protocol (LISTEN_FDS) and by Server::Starter's
// (SERVER_STARTER_PORT), says READY=1 where it is asked to, and answers what it
// has begun before it ends on TERM. It knows nothing of baton.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	began := time.Now()
	listen := flag.String("listen", "", "address to listen on when no socket was given")
	stamps := flag.String("stamps", "", "file to which the times of main, ready and the first connection are appended")
	one := flag.Duration("one", 0, "serve one request at a time, and take so long for each")
	rate := flag.Int("write", 0, "bytes that are written to standard output each second, in lines of 100")
	flag.Parse()
	if *rate > 0 {
		go write(*rate) // ends with the process
	}
	if err := serve(began, *listen, *stamps, *one); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

// write writes lines, as evenly as a clock of 10 ms allows. What a reader was late with is
// not made up for.
func write(rate int) {
	const line, step = 100, 10 * time.Millisecond
	text := bytes.Repeat([]byte(strings.Repeat("0123456789 abcdefg ", 6)[:line-1]+"\n"), max(1, rate/line/int(time.Second/step)))
	for tick := time.NewTicker(step); ; <-tick.C {
		for rest := text; len(rest) > 0; {
			n, err := os.Stdout.Write(rest[:min(len(rest), 64*line)])
			if err != nil {
				return
			}
			rest = rest[n:]
		}
	}
}

func serve(began time.Time, address, file string, one time.Duration) error {
	log, err := open(file)
	if err != nil {
		return err
	}
	log.stamp("main", began)
	l, err := listener(address)
	if err != nil {
		return err
	}
	if one > 0 {
		return oneAtATime(l, one)
	}
	pid := strconv.Itoa(os.Getpid())
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Baton-Pid", pid)
		_, _ = w.Write([]byte("hello, world\n")) // a client that has gone is no concern of ours
	})}
	if file != "" {
		l = &first{Listener: l, log: log}
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }() // ends with Shutdown below, or with the listener

	log.stamp("ready", time.Now())
	if err := ready(); err != nil {
		return err
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGINT)
	select {
	case err := <-ended:
		return err
	case <-term:
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return err
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// oneAtATime is a worker of a blocking prefork server. It has nothing that ends it
// gently: TERM does.
func oneAtATime(l net.Listener, took time.Duration) error {
	if err := ready(); err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil { // else somebody who only looks
			time.Sleep(took)
			_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\nhello, world\n")) // as above
		}
		conn.Close()
	}
}

// listener is the socket given, or one of its own. Its own is plain TCP: Go makes
// MPTCP sockets by default, which cost more than the ones a launcher gives.
func listener(address string) (net.Listener, error) {
	fd := -1
	if n, err := strconv.Atoi(os.Getenv("LISTEN_FDS")); err == nil && n > 0 {
		fd = 3
	} else if _, given, ok := strings.Cut(os.Getenv("SERVER_STARTER_PORT"), "="); ok {
		if fd, err = strconv.Atoi(given); err != nil {
			return nil, fmt.Errorf("SERVER_STARTER_PORT: %w", err)
		}
	}
	if fd < 0 {
		var plain net.ListenConfig
		plain.SetMultipathTCP(false)
		return plain.Listen(context.Background(), "tcp", address)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	return net.FileListener(f)
}

func ready() error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte("READY=1"))
	return err
}

// log appends one line of JSON for each stamp; O_APPEND keeps the lines of
// several generations apart.
type log struct{ file *os.File }

func open(name string) (*log, error) {
	if name == "" {
		return &log{}, nil
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	return &log{f}, err
}

func (l *log) stamp(what string, at time.Time) {
	if l.file == nil {
		return
	}
	line, err := json.Marshal(map[string]any{"pid": os.Getpid(), "stamp": what, "at": at.UnixNano()})
	if err == nil {
		_, err = l.file.Write(append(line, '\n'))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
	}
}

// first stamps the first connection accepted.
type first struct {
	net.Listener
	log  *log
	once sync.Once
}

func (f *first) Accept() (net.Conn, error) {
	conn, err := f.Listener.Accept()
	if err == nil {
		f.once.Do(func() { f.log.stamp("first", time.Now()) })
	}
	return conn, err
}

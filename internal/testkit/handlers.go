package testkit

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"baton/internal/load"
)

// bodySize is how long the answers of / and /slow are, in bytes.
const bodySize = 64

// generation of this process, if any protocol told it.
func generation() string {
	for _, name := range []string{"BATON_GENERATION", "SERVER_STARTER_GENERATION"} {
		if g := os.Getenv(name); g != "" {
			return g
		}
	}
	return ""
}

type socketKey struct{}

func withSocket(s *socket) context.Context {
	return context.WithValue(context.Background(), socketKey{}, s)
}

func (w *worker) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(rw http.ResponseWriter, _ *http.Request) { pattern(rw) })
	mux.HandleFunc("/slow", slow)
	mux.HandleFunc("/stream", stream)
	mux.HandleFunc("/upload", upload)
	mux.HandleFunc("/pid", func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, os.Getpid()) })
	mux.HandleFunc("/abuse", w.abuse)
	mux.HandleFunc("/healthz", w.healthz)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set(load.HeaderPID, strconv.Itoa(os.Getpid()))
		if g := generation(); g != "" {
			rw.Header().Set(load.HeaderGeneration, g)
		}
		mux.ServeHTTP(rw, r)
	})
}

// healthz answers a probe and prints that it was asked.
func (w *worker) healthz(rw http.ResponseWriter, r *http.Request) {
	fmt.Printf("healthz of generation %s asked\n", generation())
	asked := int(w.asked.Add(1))
	switch left, err := strconv.Atoi(w.behave["health"]); {
	case w.sick.Load() > 0:
		w.sick.Add(-1)
		http.Error(rw, "out of order", http.StatusInternalServerError)
	case w.behave["health"] == "hang":
		<-r.Context().Done()
	case w.behave["health"] == "never", err == nil && asked <= left:
		http.Error(rw, "the database is away", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(rw, "well")
	}
}

func pattern(rw http.ResponseWriter) {
	rw.Header().Set(load.HeaderPattern, strconv.Itoa(bodySize))
	_, _ = rw.Write(load.Pattern(0, bodySize)) // the client sees what is missing
}

// slow answers as / does, after ?delay=.
func slow(rw http.ResponseWriter, r *http.Request) {
	delay, err := time.ParseDuration(r.FormValue("delay"))
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(delay):
		pattern(rw)
	case <-r.Context().Done():
	}
}

// stream answers ?chunks= chunks of ?size= bytes (1,000), one every ?every=.
func stream(rw http.ResponseWriter, r *http.Request) {
	chunks, err1 := strconv.Atoi(r.FormValue("chunks"))
	every, err2 := time.ParseDuration(r.FormValue("every"))
	if err1 != nil || err2 != nil || every <= 0 {
		http.Error(rw, "chunks= and every= are wanted", http.StatusBadRequest)
		return
	}
	size := 1000
	if s, err := strconv.Atoi(r.FormValue("size")); err == nil {
		size = s
	}
	rw.Header().Set(load.HeaderPattern, strconv.Itoa(chunks*size))
	out := http.NewResponseController(rw)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := range chunks {
		if _, err := rw.Write(load.Pattern(i*size, size)); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// upload answers the SHA-256 of the body in hex.
func upload(rw http.ResponseWriter, r *http.Request) {
	h := sha256.New()
	if _, err := io.Copy(h, r.Body); err != nil {
		panic(http.ErrAbortHandler) // an answer would pass for one to the whole body
	}
	fmt.Fprintf(rw, "%x", h.Sum(nil))
}

// minimal answers one request and closes.
func minimal(c net.Conn) {
	defer c.Close()
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	if delay, err := time.ParseDuration(r.FormValue("delay")); err == nil {
		<-time.After(delay) // the request takes this long
	}
	body := load.Pattern(0, bodySize)
	if r.URL.Path == "/pid" {
		body = []byte(strconv.Itoa(os.Getpid()))
	}
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n%s: %d\r\n", len(body),
		load.HeaderPID, os.Getpid())
	if r.URL.Path != "/pid" {
		head += fmt.Sprintf("%s: %d\r\n", load.HeaderPattern, bodySize)
	}
	if g := generation(); g != "" {
		head += load.HeaderGeneration + ": " + g + "\r\n"
	}
	_, _ = io.WriteString(c, head+"\r\n"+string(body)) // the client sees what is missing
}

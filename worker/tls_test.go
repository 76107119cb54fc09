package worker

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"baton/internal/testkit"
)

// certified is a server with a certificate, and the settings of a client that trusts it.
func certified(t *testing.T) (*http.Server, *tls.Config) {
	t.Helper()
	s := httptest.NewTLSServer(nil) // for its certificate
	defer s.Close()
	trust := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	trust.ServerName = "example.com"
	return &http.Server{TLSConfig: &tls.Config{Certificates: s.TLS.Certificates}}, trust
}

func TestATLSConnectionIsAnsweredWithCloseOnItsNextRequest(t *testing.T) {
	testkit.Leaks(t)
	srv, trust := certified(t)
	a := serve(t, &Server{HTTP: srv, Idle: time.Minute}, listen(t))
	plain := a.dial()
	c := plain.over(tls.Client(plain.Conn, trust))
	c.expect("/1", false)
	a.drain()
	c.expect("/2", true)
	c.end()
	a.wait()
}

// HTTP/2 has a message for it: an idle connection need not be waited for, and a
// stream in flight is finished.
func TestAnHTTP2ConnectionFinishesItsStreamsAndIsNotWaitedForWhenIdle(t *testing.T) {
	testkit.Leaks(t)
	srv, trust := certified(t)
	a := serve(t, &Server{HTTP: srv, Idle: time.Minute}, listen(t))
	transport := &http.Transport{TLSClientConfig: trust, ForceAttemptHTTP2: true}
	idler := &http.Transport{TLSClientConfig: trust.Clone(), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	defer idler.CloseIdleConnections()
	if err := a.get(idler, "/idle"); err != nil {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() { answer <- a.get(transport, "/held") }() // ends with the answer
	<-a.reached
	begin := time.Now()
	a.drain()
	close(a.release)
	if err := <-answer; err != nil {
		t.Error(err)
	}
	a.wait()
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("the drain took %v: the idle connection was waited for", took)
	}
}

// get asks over HTTP/2 and wants the whole answer.
func (a *app) get(transport *http.Transport, path string) error {
	request, err := http.NewRequestWithContext(a.t.Context(), http.MethodGet, "https://"+a.address+path, nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != path || resp.ProtoMajor != 2 {
		return fmt.Errorf("the answer to %s: %s %s %.100q %w", path, resp.Proto, resp.Status, body, err)
	}
	return nil
}

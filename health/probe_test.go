package health

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatIsWrongWithAProbeNamesItsKey(t *testing.T) {
	web := func(change func(p *Probe)) Probe {
		p := Probe{Kind: KindHTTP}
		change(&p)
		return p
	}
	for _, c := range []struct {
		p    Probe
		want string
	}{
		{Probe{Kind: KindTCP}, ""},
		{Probe{Kind: KindHTTPS, Method: "PURGE", Path: "/x?y=ü", Host: "[::1]:80", Header: map[string]string{"A": "b\tc"}}, ""},
		{Probe{Kind: KindExec, Exec: []string{"true"}}, ""},
		{Probe{}, `probe "": not one of ["tcp" "http" "https" "exec"]`},
		{Probe{Kind: "ftp"}, `probe "ftp": not one of ["tcp" "http" "https" "exec"]`},
		{Probe{Kind: KindExec}, `exec []: names no command`},
		{Probe{Kind: KindExec, Exec: []string{"", "x"}}, `exec ["" "x"]: names no command`},
		{web(func(p *Probe) { p.Method = "GET /" }), `method "GET /": not a method`},
		{web(func(p *Probe) { p.Path = "healthz" }), `path "healthz": not a path, as in /healthz`},
		{web(func(p *Probe) { p.Path = "http://x/" }), `path "http://x/": not a path, as in /healthz`},
		{web(func(p *Probe) { p.Path = "/a b" }), `path "/a b": not a path, as in /healthz`},
		{web(func(p *Probe) { p.Path = "/\r\nX: y" }), `path "/\r\nX: y": not a path, as in /healthz`},
		{web(func(p *Probe) { p.Path = "/%zz" }), `path "/%zz": not a path, as in /healthz`},
		{web(func(p *Probe) { p.Host = "a/b" }), `host "a/b": not a host name, with or without a port`},
		{web(func(p *Probe) { p.Host = "a\r\nX: y" }), `host "a\r\nX: y": not a host name, with or without a port`},
		{web(func(p *Probe) { p.Header = map[string]string{"X Y": ""} }), `header "X Y": not the name of a header`},
		{web(func(p *Probe) { p.Header = map[string]string{"": ""} }), `header "": not the name of a header`},
		{web(func(p *Probe) { p.Header = map[string]string{"host": "x"} }), `header "host": is set by the key host`},
		{web(func(p *Probe) { p.Header = map[string]string{"X": "a\nb"} }), `header "X": its value "a\nb" has control characters`},
		{web(func(p *Probe) { p.Status = []Range{{99, 200}} }), `status 99-200: not statuses from 100 to 599`},
		{web(func(p *Probe) { p.Body = strings.Repeat("x", maxBody+1) }), `body: 65537 bytes, and only 65536 are looked at`},
		{Probe{Kind: KindTCP, Interval: -1}, `interval -1ns: below 0`},
		{Probe{Kind: KindTCP, Timeout: -time.Second}, `timeout -1s: below 0`},
		{Probe{Kind: KindTCP, Successes: -1}, `successes -1: below 0`},
		{Probe{Kind: KindTCP, Failures: -2}, `failures -2: below 0`},
	} {
		got := ""
		if err := c.p.Validate(); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// scripted is a server that answers its statuses one after the other, and the last
// one for ever.
func scripted(t *testing.T, statuses ...int) (Target, *atomic.Int32) {
	var asked atomic.Int32
	return serve(t, func(w http.ResponseWriter, _ *http.Request) {
		n := int(asked.Add(1))
		w.WriteHeader(statuses[min(n, len(statuses))-1])
	}), &asked
}

func TestUntilEnoughInARow(t *testing.T) {
	for name, c := range map[string]struct {
		statuses            []int
		successes, failures int
		asked               int32
		want                string
	}{
		"at once":                 {[]int{200}, 0, 0, 1, ""},
		"after failures":          {[]int{503, 503, 200}, 1, 3, 3, ""},
		"three in a row":          {[]int{200, 200, 503, 200, 200, 200}, 3, 2, 6, ""},
		"fails at once":           {[]int{503}, 1, 1, 1, "http GET /healthz: 503 Service Unavailable"},
		"fails three times":       {[]int{503}, 1, 3, 3, "http GET /healthz: 503 Service Unavailable, 3 times in a row"},
		"the last is told":        {[]int{503, 500}, 1, 2, 2, "http GET /healthz: 500 Internal Server Error, 2 times in a row"},
		"a success starts again":  {[]int{503, 200, 503, 404}, 2, 2, 4, "http GET /healthz: 404 Not Found, 2 times in a row"},
		"failures without number": {[]int{503, 503, 503, 503, 503, 200}, 1, 0, 6, ""},
	} {
		t.Run(name, func(t *testing.T) {
			target, asked := scripted(t, c.statuses...)
			told := int32(0)
			target.Tried = func(error) { told++ }
			p := Probe{Kind: KindHTTP, Path: "/healthz", Timeout: deadline, Interval: time.Millisecond,
				Successes: c.successes, Failures: c.failures}
			got := ""
			if err := p.Until(t.Context(), target); err != nil {
				got = err.Error()
			}
			if got != c.want || asked.Load() != c.asked || told != c.asked {
				t.Errorf("asked %d times, told of %d, want %d; got %q, want %q", asked.Load(), told, c.asked, got, c.want)
			}
		})
	}
}

func TestUntilTheContextEndsWrapsTheLastFailure(t *testing.T) {
	target, _ := scripted(t, 503)
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	target.Tried = func(error) {
		if tries++; tries == 3 {
			cancel()
		}
	}
	p := Probe{Kind: KindHTTP, Path: "/healthz", Timeout: deadline, Interval: time.Millisecond}
	err := p.Until(ctx, target)
	if want := "http GET /healthz: 503 Service Unavailable, 3 times in a row (context canceled)"; err == nil || err.Error() != want || !errors.Is(err, context.Canceled) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	p.Successes = 2
	target, _ = scripted(t, 200)
	ctx, cancel = context.WithCancel(t.Context())
	target.Tried = func(error) { cancel() }
	err = p.Until(ctx, target)
	if want := "http GET /healthz: passed 1 of 2 times: context canceled"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// A try that is cut short by the context tells nothing of the worker.
func TestATryCutShortDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		tries := 0
		target := Target{Prove: func(ctx context.Context) error {
			if tries++; tries <= 2 {
				return errors.New("asleep")
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		err := Probe{Kind: KindTCP, Timeout: time.Minute, Interval: time.Second}.Until(ctx, target)
		if want := "tcp: asleep, 2 times in a row (context deadline exceeded)"; err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		if err := (Probe{Kind: KindTCP}).Until(ctx, target); err == nil || err.Error() != "tcp: no acceptance: context deadline exceeded" {
			t.Errorf("got  %v", err)
		}
	})
}

func TestTheFirstTryIsAtOnceAndTheNextAfterTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var at []time.Duration
		target := Target{Prove: func(ctx context.Context) error {
			at = append(at, time.Since(began))
			if len(at) == 2 {
				<-ctx.Done() // takes all of its timeout
				return ctx.Err()
			}
			return nil
		}}
		p := Probe{Kind: KindTCP, Timeout: 2 * time.Second, Interval: 250 * time.Millisecond, Successes: 2}
		if err := p.Until(t.Context(), target); err != nil {
			t.Error(err)
		}
		want := []time.Duration{0, 250 * time.Millisecond, 2500 * time.Millisecond, 2750 * time.Millisecond}
		if len(at) != len(want) || at[0] != want[0] || at[1] != want[1] || at[2] != want[2] || at[3] != want[3] {
			t.Errorf("tried after %v, want %v", at, want)
		}
	})
}

package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
)

// Kind is how a probe asks.
type Kind string

// The kinds.
const (
	KindTCP   Kind = "tcp"   // by a connection that is accepted
	KindHTTP  Kind = "http"  // by a request that is answered
	KindHTTPS Kind = "https" // the same over TLS; nobody's certificate is verified, as it is the worker's own socket
	KindExec  Kind = "exec"  // by a command that exits with 0
)

// Kinds are all kinds, in the order of documentation.
var Kinds = []Kind{KindTCP, KindHTTP, KindHTTPS, KindExec}

// Dial makes a connection that reaches the worker that is meant, and nobody else.
type Dial func(ctx context.Context) (net.Conn, error)

// Run runs argv, with env besides the variables it has anyway, and returns nil
// when it has exited with 0. When ctx ends it kills what it has started and
// returns soon.
type Run func(ctx context.Context, argv []string, env []string) error

// Target is the worker a probe asks, and how it is reached.
type Target struct {
	// Address is the listener's, "127.0.0.1:8080", ":8080" or a path. It only
	// makes the Host header of a probe that has none of its own.
	Address string
	Dial    Dial // for exec: nil gives the command no door
	// Prove returns nil once the worker has accepted a connection. A tcp probe
	// without it is content with Dial, which the kernel answers also for a worker
	// that hangs.
	Prove func(ctx context.Context) error
	Run   Run // for exec; by the time it starts the command, Allowed must know it
	// Allowed says whether the process at the far end of a connection to the
	// command's door is the command; see Door.
	Allowed func(local, remote netip.AddrPort) bool
	// Tried, if not nil, is told by Until how each try ended.
	Tried func(error)
}

// Probe is a question to a worker and the answer that passes. The zero values of
// Method, Path, Status, Successes are those of the documentation.
type Probe struct {
	Kind   Kind
	Method string            // "": GET
	Path   string            // with a query, if need be; "": /
	Host   string            // of the Host header and the name asked for in TLS; "": the target's address
	Header map[string]string // added to the request
	Status []Range           // that pass; none: 200-399
	Body   string            // what the first 64 KiB of the answer must contain; "": it is not read

	Exec []string // of KindExec: the command and its arguments, without a shell

	Interval  time.Duration // from the end of one try to the next
	Timeout   time.Duration // of one try; 0: only the context bounds it
	Successes int           // in a row, to pass; 0: 1
	Failures  int           // in a row, to fail; 0: never
}

// Validate returns what is wrong, beginning with the key as in the configuration.
func (p Probe) Validate() error {
	switch p.Kind {
	case KindTCP:
	case KindHTTP, KindHTTPS:
		if err := p.validateRequest(); err != nil {
			return err
		}
	case KindExec:
		if len(p.Exec) == 0 || p.Exec[0] == "" {
			return fmt.Errorf("exec %q: names no command", p.Exec)
		}
	default:
		return fmt.Errorf("probe %q: not one of %q", p.Kind, Kinds)
	}
	for _, n := range []struct {
		key   string
		value any
		bad   bool
	}{
		{"interval", p.Interval, p.Interval < 0},
		{"timeout", p.Timeout, p.Timeout < 0},
		{"successes", p.Successes, p.Successes < 0},
		{"failures", p.Failures, p.Failures < 0},
	} {
		if n.bad {
			return fmt.Errorf("%s %v: below 0", n.key, n.value)
		}
	}
	return nil
}

// Once tries once, within Timeout. It returns nil when the probe passed, else why
// not, beginning with what was asked, as in "http GET /healthz: 503 Service
// Unavailable".
func (p Probe) Once(ctx context.Context, t Target) error {
	try, cancel := ctx, context.CancelFunc(func() {})
	if p.Timeout > 0 {
		try, cancel = context.WithTimeout(ctx, p.Timeout)
	}
	defer cancel()
	waited, err := p.try(try, t)
	switch {
	case err == nil:
		return nil
	case waited == "": // it was over, and not as it should be
	case ctx.Err() != nil:
		return fmt.Errorf("%s: no %s: %w", p, waited, ctx.Err())
	case try.Err() != nil:
		return fmt.Errorf("%s: no %s within %s", p, waited, p.Timeout)
	}
	return fmt.Errorf("%s: %w", p, err)
}

// try tells what was being waited for when it ended, "" for nothing any more.
func (p Probe) try(ctx context.Context, t Target) (waited string, err error) {
	switch {
	case p.Kind == KindExec:
		return "end", p.command(ctx, t)
	case p.Kind == KindTCP && t.Prove != nil:
		return "acceptance", t.Prove(ctx)
	case t.Dial == nil:
		return "", errors.New("no listener that could be asked")
	case p.Kind != KindTCP:
		return p.request(ctx, t)
	}
	c, err := t.Dial(ctx)
	if err == nil {
		c.Close() // it carried nothing
	}
	return "connection", plain(err)
}

// String is what is asked: "tcp", "http GET /healthz", "exec curl".
func (p Probe) String() string {
	switch p.Kind {
	case KindHTTP, KindHTTPS:
		return fmt.Sprintf("%s %s %s", p.Kind, p.method(), p.path())
	case KindExec:
		if len(p.Exec) > 0 {
			return "exec " + path.Base(p.Exec[0])
		}
	}
	return string(p.Kind)
}

// Until tries, at once and then Interval after each try, until Successes tries in
// a row have passed, which is nil, or Failures in a row have not. The error is the
// last one and how often it failed in a row; when ctx ended before either, it wraps
// ctx's error too.
func (p Probe) Until(ctx context.Context, t Target) error {
	passed, failed := 0, 0
	var last error
	for {
		err := p.Once(ctx, t)
		if ctx.Err() != nil && err != nil {
			return given(ctx, last, failed, err)
		}
		if t.Tried != nil {
			t.Tried(err)
		}
		if err == nil {
			passed, failed, last = passed+1, 0, nil
			if passed >= p.Successes {
				return nil
			}
		} else {
			passed, failed, last = 0, failed+1, err
			if failed == p.Failures {
				return inARow(last, failed)
			}
		}
		pause := time.NewTimer(p.Interval)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return given(ctx, last, failed, fmt.Errorf("%s: passed %d of %d times: %w", p, passed, p.Successes, ctx.Err()))
		}
	}
}

func inARow(last error, failed int) error {
	if failed == 1 {
		return last
	}
	return fmt.Errorf("%w, %d times in a row", last, failed)
}

// given is the error when ctx has ended: what failed last, or else otherwise.
func given(ctx context.Context, last error, failed int, otherwise error) error {
	if last == nil {
		return otherwise
	}
	return fmt.Errorf("%w (%w)", inARow(last, failed), ctx.Err())
}

// command runs the probe's command, with a door to the worker.
func (p Probe) command(ctx context.Context, t Target) error {
	if t.Dial == nil {
		return t.Run(ctx, p.Exec, nil)
	}
	door, err := OpenDoor(ctx, t.Dial, t.Allowed)
	if err != nil {
		return err
	}
	err = t.Run(ctx, p.Exec, []string{AddressVariable + "=" + door.Address()})
	closed := door.Close()
	if err != nil && closed != nil {
		return fmt.Errorf("%w (%w)", err, closed)
	}
	return err
}

// passes says whether the status is one that does.
func (p Probe) passes(status int) bool {
	ranges := p.Status
	if len(ranges) == 0 {
		ranges = usual
	}
	return slices.ContainsFunc(ranges, func(r Range) bool { return r.Min <= status && status <= r.Max })
}

func (p Probe) method() string { return first(p.Method, "GET") }
func (p Probe) path() string   { return first(p.Path, "/") }

func first(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// visible tells whether s is made of printable characters, none of which is in
// but: what can be written in a request without changing its sense.
func visible(s, but string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' || r == 0x7f || strings.ContainsRune(but, r)
	})
}

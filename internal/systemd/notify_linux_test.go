package systemd

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/testkit"
)

// manager is the other end: a socket as systemd has one.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func newManager(t *testing.T, address string) *manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	for _, name := range []string{"WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE"} {
		t.Setenv(name, "")
	}
	t.Setenv("NOTIFY_SOCKET", address)
	return &manager{t, conn}
}

// read is the next datagram and its descriptors.
func (m *manager) read() (string, []int) {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		m.t.Fatal(err)
	}
	text, rights := make([]byte, 65536), make([]byte, 4096)
	n, oob, _, _, err := m.conn.ReadMsgUnix(text, rights)
	if err != nil {
		m.t.Fatal(err)
	}
	var fds []int
	if oob > 0 {
		all, err := unix.ParseSocketControlMessage(rights[:oob])
		if err != nil {
			m.t.Fatal(err)
		}
		if fds, err = unix.ParseUnixRights(&all[0]); err != nil {
			m.t.Fatal(err)
		}
	}
	return string(text[:n]), fds
}

func (m *manager) wants(want string) {
	m.t.Helper()
	if got, _ := m.read(); got != want {
		m.t.Fatalf("said %q, want %q", got, want)
	}
}

// lines is a log that a test may look at.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func notifier(t *testing.T) (*Notifier, *lines) {
	t.Helper()
	log := &lines{}
	n, err := New(slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n, log
}

func TestWhatIsSaid(t *testing.T) {
	for _, address := range []string{filepath.Join(t.TempDir(), "s"), "@baton-notify-" + strconv.Itoa(os.Getpid())} {
		m := newManager(t, address)
		n, _ := notifier(t)
		n.Status("generation 1\nstarts \x1b[31m")
		m.wants("STATUS=generation 1 starts  [31m")
		n.Ready("it serves")
		m.wants("READY=1\nSTATUS=it serves")
		n.Status("it serves") // said
		before := monotonic()
		n.Reloading("")
		got, _ := m.read()
		usec, err := strconv.ParseInt(strings.TrimPrefix(got, "RELOADING=1\nMONOTONIC_USEC="), 10, 64)
		if at := time.Duration(usec) * time.Microsecond; err != nil || at < before.Truncate(time.Microsecond) || at > monotonic() {
			t.Fatalf("%q at %v: %v", got, before, err)
		}
		n.Stopping("")
		m.wants("STOPPING=1")
		n.Extend()
		m.wants("EXTEND_TIMEOUT_USEC=10000000")
		n.Extend() // asked for
		n.ExtendBy(time.Minute)
		m.wants("EXTEND_TIMEOUT_USEC=60000000")
		n.Alive() // nobody watches
		n.Status("the end")
		n.Close()
		m.wants("STATUS=the end")
		n.Status("nobody hears it")
	}
}

func TestWithoutAManagerNothingIsSaid(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n, err := New(nil)
	if n != nil || err != nil {
		t.Fatal(n, err)
	}
	n.Ready("x")
	n.Reloading("x")
	n.Stopping("x")
	n.Status("x")
	n.Alive()
	n.Extend()
	n.ExtendBy(1)
	if err := n.Store("x", -1); err != nil || n.Forget("") != nil || n.Room() != 0 || n.Tick(time.Second) != time.Second {
		t.Error("a nil Notifier does something")
	}
	n.Close()
}

func TestTheEnvironmentIsRead(t *testing.T) {
	address := filepath.Join(t.TempDir(), "s")
	for _, c := range []struct {
		socket, usec, pid, room, err string
		watchdog, tick               time.Duration
		holds                        int
	}{
		{socket: address, tick: time.Second},
		{socket: address, usec: "30000000", watchdog: 30 * time.Second, tick: time.Second},
		{socket: address, usec: "1000000", pid: strconv.Itoa(os.Getpid()), watchdog: time.Second, tick: 250 * time.Millisecond},
		{socket: address, usec: "1", watchdog: time.Microsecond, tick: time.Millisecond},
		{socket: address, usec: "1000000", pid: "1", tick: time.Second},
		{socket: address, usec: "18446744073709551615", tick: time.Second},
		{socket: address, usec: "soon", err: `WATCHDOG_USEC "soon"`, tick: time.Second},
		{socket: address, usec: "0", err: `WATCHDOG_USEC "0"`, tick: time.Second},
		{socket: address, room: "512", holds: 512, tick: time.Second},
		{socket: address, room: "-1", err: `FDSTORE "-1"`, tick: time.Second},
		{socket: "vsock:2:1234", err: `NOTIFY_SOCKET "vsock:2:1234"`, tick: time.Second},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			for name, value := range map[string]string{"NOTIFY_SOCKET": c.socket, "WATCHDOG_USEC": c.usec, "WATCHDOG_PID": c.pid, "FDSTORE": c.room} {
				t.Setenv(name, value)
			}
			n, err := New(slog.New(slog.DiscardHandler))
			t.Cleanup(n.Close) // also when there is an error
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("%v", err)
			}
			if n != nil && n.watchdog != c.watchdog || n.Tick(time.Second) != c.tick || n.Room() != c.holds {
				t.Errorf("%+v", n)
			}
			if os.Getenv("NOTIFY_SOCKET") != c.socket {
				t.Error("another image of the process could not say anything")
			}
		})
	}
}

func TestDescriptorsAreStored(t *testing.T) {
	m := newManager(t, filepath.Join(t.TempDir(), "s"))
	n, _ := notifier(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := n.Store("pipe", int(w.Fd())); err != nil {
		t.Fatal(err)
	}
	_ = w.Close() // a copy is on its way
	got, fds := m.read()
	if got != "FDSTORE=1\nFDPOLL=0\nFDNAME=pipe" || len(fds) != 1 {
		t.Fatalf("%q with %v", got, fds)
	}
	if _, err := unix.Write(fds[0], []byte("here")); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fds[0])
	all := make([]byte, 10)
	if k, err := r.Read(all); err != nil || string(all[:k]) != "here" {
		t.Fatalf("%q: %v", all[:k], err)
	}
	if k, err := r.Read(all); k != 0 || err == nil { // else a copy stayed behind
		t.Fatalf("%d: %v", k, err)
	}
	if err := n.Forget("pipe"); err != nil {
		t.Fatal(err)
	}
	m.wants("FDSTOREREMOVE=1\nFDNAME=pipe")
	for _, name := range []string{"", "a:b", "a\nREADY=1", strings.Repeat("x", 256)} {
		if n.Store(name, 0) == nil || n.Forget(name) == nil {
			t.Errorf("%q is taken for a name", name)
		}
	}
	if n.Store("closed", 1<<20) == nil {
		t.Error("a descriptor that there is not was stored")
	}
	many := make([]int, atOnce+1) // standard input, again and again
	if err := n.Store("many", many...); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{atOnce, 1} {
		_, fds := m.read()
		if len(fds) != want {
			t.Errorf("%d descriptors, want %d", len(fds), want)
		}
		release(fds)
	}
}

// fill makes the manager's socket one that takes nothing more, and returns how much it holds.
func (m *manager) fill() (held int) {
	m.t.Helper()
	address := m.conn.LocalAddr().String()
	for {
		if err := send(address, message{text: "X=filled"}, time.Millisecond); err != nil {
			return held
		}
		held++
	}
}

// Nobody waits for a manager that does not read, and when it does it hears what matters.
func TestAManagerThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	m := newManager(t, filepath.Join(t.TempDir(), "s"))
	n, log := notifier(t)
	held := m.fill()
	begun := time.Now()
	for i := range 200 {
		n.Status(fmt.Sprintf("status %d", i))
		n.Reloading("")
		n.Ready("")
		n.Extend()
	}
	n.Status("the last one")
	n.Stopping("")
	if took := time.Since(begun); took > time.Second {
		t.Errorf("it took %v", took)
	}
	testkit.Wait(t, func() bool { return strings.Contains(log.String(), "does not read") }, "a word in the log")
	for range held {
		m.wants("X=filled")
	}
	var got []string
	for !strings.Contains(strings.Join(got, " "), "STATUS") {
		text, _ := m.read()
		key, _, _ := strings.Cut(text, "\n")
		got = append(got, strings.Split(key, "\n")[0])
	}
	// The first may have been a status, which was on its way.
	last := len(got) - 1
	if got[last] != "STATUS=the last one" || got[last-1] != "STOPPING=1" || last != 401 {
		t.Fatalf("%d: %q", last, got)
	}
	for i := range 400 {
		if want := []string{"RELOADING=1", "READY=1"}[i%2]; got[i] != want {
			t.Fatalf("%d: %q, want %q", i, got[i], want)
		}
	}
}

func TestTheEndDoesNotWaitForAManagerThatDoesNotRead(t *testing.T) {
	m := newManager(t, filepath.Join(t.TempDir(), "s"))
	n, _ := notifier(t)
	m.fill()
	for range 3 * longest {
		n.Ready("")
	}
	n.mu.Lock()
	if len(n.queue) > longest {
		t.Errorf("%d messages wait", len(n.queue))
	}
	n.mu.Unlock()
	begun := time.Now()
	n.Close()
	if took := time.Since(begun); took > 5*farewell {
		t.Errorf("it took %v", took)
	}
}

// A manager that is gone hears nothing, and one that comes back what is said then.
func TestAManagerThatIsGone(t *testing.T) {
	address := filepath.Join(t.TempDir(), "s")
	m := newManager(t, address)
	n, log := notifier(t)
	if err := errors.Join(m.conn.Close(), os.Remove(address)); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		n.Ready("")
		n.Status(strconv.Itoa(i))
	}
	testkit.Wait(t, func() bool { n.mu.Lock(); defer n.mu.Unlock(); return len(n.queue) == 0 && n.now.status == "" }, "an empty queue")
	if got := strings.Count(log.String(), "no such file"); got != 1 {
		t.Errorf("logged %d times:\n%s", got, log)
	}
	m = newManager(t, address)
	n.Ready("again")
	m.wants("READY=1\nSTATUS=again")
}

// WATCHDOG=1 follows calls of Alive, at least every half of the interval if those come
// every Tick.
func TestTheWatchdogIsFedByCalls(t *testing.T) {
	m := newManager(t, filepath.Join(t.TempDir(), "s"))
	t.Setenv("WATCHDOG_USEC", "400000")
	n, _ := notifier(t)
	n.Alive()
	m.wants("WATCHDOG=1")
	n.Alive() // said lately
	n.Ready("")
	m.wants("READY=1")
	n.Extend() // no more than the watchdog's own
	m.wants("EXTEND_TIMEOUT_USEC=400000")
	tick := time.NewTicker(n.Tick(time.Second))
	defer tick.Stop()
	last := time.Now()
	for range 10 {
		for said := false; !said; {
			<-tick.C
			n.Alive()
			n.mu.Lock()
			said = n.wellAt.After(last)
			n.mu.Unlock()
		}
		m.wants("WATCHDOG=1")
		if now := time.Now(); now.Sub(last) > 350*time.Millisecond {
			t.Errorf("%v between two", now.Sub(last))
		}
		last = time.Now()
	}
}

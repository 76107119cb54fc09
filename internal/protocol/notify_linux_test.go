package protocol

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"baton/internal/process"
)

// The test binary is also the worker: with this variable it sends each of its
// arguments as a datagram, through a child of its own if the variable says so.
const sender = "PROTOCOL_TEST_SENDER"

func TestMain(m *testing.M) {
	process.Main()
	if child, ok := children[os.Getenv(childVariable)]; ok {
		child()
		syscall.Exit(0) // not os.Exit, as below
	}
	switch os.Getenv(sender) {
	case "":
		os.Exit(m.Run())
	case "grandchild":
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), sender+"=itself")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			syscall.Exit(1)
		}
	case "itself":
		for _, text := range os.Args[1:] {
			if err := send(os.Getenv("NOTIFY_SOCKET"), text); err != nil {
				fmt.Fprintln(os.Stderr, err)
				syscall.Exit(1)
			}
		}
		fmt.Println("sent")
		// A sender that is gone cannot be recognised: stay until told.
		io.Copy(io.Discard, os.Stdin)
	}
	syscall.Exit(0) // not os.Exit: under the race detector that takes a second
}

// send is one datagram to an abstract socket, with descriptors.
func send(to, text string, fds ...int) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	return unix.Sendmsg(s, []byte(text), rights, &unix.SockaddrUnix{Name: to}, 0)
}

// inbox is what on was told.
type inbox chan Message

func (b inbox) next(t *testing.T) Message {
	t.Helper()
	select {
	case m := <-b:
		return m
	case <-time.After(time.Minute):
		t.Fatal("no message within a minute")
		panic("unreachable")
	}
}

// logbook is a log to look into.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), what)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func open(t *testing.T, member func(int) bool) (*Notify, string, inbox, *logbook) {
	t.Helper()
	leak := goleak.IgnoreCurrent()
	box, log := make(inbox, 4096), &logbook{}
	n, err := OpenNotify(member, func(m Message) { box <- m }, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t, leak)
		if log.count("unusable") != 0 {
			t.Errorf("closing was taken for a fault: %s", log)
		}
	})
	name, ok := strings.CutPrefix(n.Env(), "NOTIFY_SOCKET=")
	if !ok || !strings.HasPrefix(name, "@") || len(name) < 1+32 {
		t.Fatalf("environment %q", n.Env())
	}
	return n, name, box, log
}

func me(pid int) bool { return pid == os.Getpid() }

// family says whether pid is this process's child or grandchild.
func family(pid int) bool {
	for range 2 {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			return false
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if pid, _ = strconv.Atoi(f[1]); pid == os.Getpid() {
			return true
		}
	}
	return false
}

// worker starts the test binary as a sender, that ends with the test. When this
// returns, all texts have been sent.
func worker(t *testing.T, n *Notify, who string, texts ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", texts...)
	cmd.Env = []string{sender + "=" + who, n.Env()}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sent, err := bufio.NewReader(out).ReadString('\n') // ends with the process, at the latest
	if sent != "sent\n" {
		t.Errorf("the sender said %q, %v", sent, err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return cmd
}

func TestAChildIsHeardInOrder(t *testing.T) {
	n, _, box, log := open(t, family)
	cmd := worker(t, n, "itself", "STATUS=loading\nEXTEND_TIMEOUT_USEC=5000000", "READY=1", "", "X_UNKNOWN=1", "STOPPING=1")
	for _, want := range []Message{
		{Status: "loading", ExtendTimeout: 5 * time.Second}, {Ready: true}, {Stopping: true},
	} {
		want.PID = cmd.Process.Pid
		if got := box.next(t); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	if s := log.String(); s != "" {
		t.Errorf("log: %s", s)
	}
}

func TestAGrandchildIsHeard(t *testing.T) {
	n, _, box, _ := open(t, family)
	cmd := worker(t, n, "grandchild", "READY=1")
	if m := box.next(t); !m.Ready || m.PID == cmd.Process.Pid || m.PID == os.Getpid() {
		t.Errorf("%+v", m)
	}
}

func TestADatagramFromOutsideIsIgnored(t *testing.T) {
	var allowed sync.Map
	n, to, box, log := open(t, func(pid int) bool { _, ok := allowed.Load(pid); return ok })
	outsider := worker(t, n, "itself", "READY=1", "READY=1", "STOPPING=1")
	eventually(t, "the outsider is told of", func() bool { return log.count("not of this worker") == 1 })
	if want := fmt.Sprintf("pid=%d", outsider.Process.Pid); log.count(want) != 1 {
		t.Errorf("no %s in %s", want, log)
	}
	// What is sent now is read after all that the outsider sent.
	allowed.Store(os.Getpid(), true)
	if err := send(to, "STATUS=inside"); err != nil {
		t.Fatal(err)
	}
	if m := box.next(t); m != (Message{Status: "inside", PID: os.Getpid()}) {
		t.Errorf("the first message told is %+v", m)
	}
	if log.count("level=") != 1 {
		t.Errorf("the outsider was told of more than once: %s", log)
	}
}

func TestManyStrangersDoNotFillTheLog(t *testing.T) {
	log := &logbook{}
	n := &Notify{log: slog.New(slog.NewTextHandler(log, nil)), strangers: map[int]bool{}}
	for pid := range 10_000 {
		n.stranger(pid)
		n.stranger(pid)
	}
	// One line a second at most: as long as that took.
	if lines := log.count("\n"); lines < 1 || lines > 10 {
		t.Errorf("%d lines", lines)
	}
	if len(n.strangers) > maxSenders {
		t.Errorf("%d senders remembered", len(n.strangers))
	}
	n.lastLine = n.lastLine.Add(-quiet)
	n.stranger(-5)
	if !strings.Contains(log.String(), "pid=-5 others=") || strings.Contains(log.String(), "pid=-5 others=0") {
		t.Errorf("the ones that were not told of are not counted: %s", log)
	}
	n.lastLine = n.lastLine.Add(-quiet)
	if n.stranger(-5); log.count("pid=-5") != 1 {
		t.Errorf("the same sender is told of twice: %s", log)
	}
}

func TestDescriptorsThatComeAlongAreClosed(t *testing.T) {
	_, to, box, log := open(t, me)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fd := int(w.Fd())
	many := make([]int, maxFDs)
	for i := range many {
		many[i] = fd
	}
	before := openFDs(t)
	for i := range 1000 {
		fds := []int{fd, fd, fd}
		if i%100 == 0 {
			fds = many
		}
		if err := send(to, "FDSTORE=1\nFDNAME=x\nWATCHDOG=1", fds...); err != nil {
			t.Fatal(err)
		}
		box.next(t)
	}
	w.Close()
	// The pipe ends when the last copy is closed, wherever it is.
	r.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a copy of the descriptor is still open: %v", err)
	}
	if after := openFDs(t); after != before-1 { // w is closed
		t.Errorf("%d descriptors, were %d", after, before)
	}
	if log.count("FDSTORE=1 not honoured") != 1 {
		t.Errorf("the refused store was to be told once: %s", log)
	}
}

func TestDescriptorsFromOutsideAreClosedToo(t *testing.T) {
	_, to, _, log := open(t, func(int) bool { return false })
	barrier(t, to, "BARRIER=1")
	if log.count("not of this worker") != 1 {
		t.Error(log)
	}
}

func TestABarrierIsAnsweredWhenAllBeforeItWasTold(t *testing.T) {
	_, to, box, _ := open(t, me)
	for i := range 50 {
		if err := send(to, fmt.Sprintf("STATUS=%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	barrier(t, to, "BARRIER=1")
	if len(box) != 50 {
		t.Errorf("the barrier was answered after %d of 50 messages", len(box))
	}
}

// barrier does what sd_notify_barrier(3) does.
func barrier(t *testing.T, to, text string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := send(to, text, int(w.Fd())); err != nil {
		t.Fatal(err)
	}
	w.Close()
	r.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("the barrier is not answered: %v", err)
	}
}

func TestTheRealSystemdNotifyIsUnderstood(t *testing.T) {
	path, err := exec.LookPath("systemd-notify")
	if err != nil {
		t.Skip(err)
	}
	n, _, box, log := open(t, family)
	// As root it sends in the name of its parent: the worker's script.
	cmd := exec.Command("sh", "-c", `"$0" --ready --status="at your service"; exit $?`, path)
	cmd.Env = []string{n.Env()}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m := box.next(t)
	if !m.Ready || m.Status != "at your service" {
		t.Errorf("%+v, log %s", m, log)
	}
}

func TestATooLongDatagramIsIgnored(t *testing.T) {
	_, to, box, log := open(t, me)
	if err := send(to, "READY=1\nX="+strings.Repeat("x", maxDatagram)); err != nil {
		t.Fatal(err)
	}
	barrier(t, to, "BARRIER=1")
	if len(box) != 0 || log.count("too long") != 1 {
		t.Errorf("%d messages, log %s", len(box), log)
	}
}

func TestAfterCloseSendersAreRefused(t *testing.T) {
	n, to, box, _ := open(t, me)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := send(to, "READY=1"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("%v, want connection refused", err)
	}
	if len(box) != 0 {
		t.Error("a message was told")
	}
}

func TestCloseFromWithinOn(t *testing.T) {
	leak := goleak.IgnoreCurrent()
	var n *Notify
	opened, done := make(chan struct{}), make(chan error, 1)
	n, err := OpenNotify(me, func(Message) { <-opened; done <- n.Close() }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	close(opened)
	if err := send(strings.TrimPrefix(n.Env(), "NOTIFY_SOCKET="), "READY=1"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("Close waits for the message that closes")
	}
	goleak.VerifyNone(t, leak)
}

func TestEachWorkersSocketIsItsOwn(t *testing.T) {
	_, a, boxA, _ := open(t, me)
	_, b, boxB, _ := open(t, me)
	if a == b {
		t.Fatal("two workers have the same socket")
	}
	if err := send(a, "READY=1"); err != nil {
		t.Fatal(err)
	}
	boxA.next(t)
	barrier(t, b, "BARRIER=1")
	if len(boxB) != 0 {
		t.Error("the other worker's message arrived here")
	}
}

// A sender through Go's own net package, as coreos/go-systemd does it.
func TestAnAbstractNameIsWhatGoLibrariesExpect(t *testing.T) {
	_, to, box, _ := open(t, me)
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: to, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("READY=1")); err != nil {
		t.Fatal(err)
	}
	if !box.next(t).Ready {
		t.Error("not ready")
	}
}

// openFDs counts descriptors, but not those that the runtime makes for itself when
// a test is the first to wait for something.
func openFDs(t *testing.T) (n int) {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range d {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && to != "anon_inode:[eventpoll]" && to != "anon_inode:[eventfd]" {
			n++ // the one of the directory is gone
		}
	}
	return n
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

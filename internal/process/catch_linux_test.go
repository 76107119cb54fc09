//go:build amd64 || arm64

package process

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var launcherSignals = []syscall.Signal{
	syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTTIN, syscall.SIGTTOU,
}

func init() {
	// Says who sent which signal, until the end of its stdin. With an argument it
	// meanwhile does that.
	targets["catch"] = func(args []string) {
		if len(args) > 0 && args[0] == "nohup" {
			signal.Ignore(syscall.SIGHUP)
			exit(syscall.Exec("/proc/self/exe", append(os.Args[:1], "forking"), os.Environ()))
		}
		if len(args) > 0 && args[0] == "stuck" {
			stuck()
			return
		}
		if len(args) > 0 && args[0] == "children" {
			parentOfSenders()
			return
		}
		if len(args) > 0 && args[0] == "pause" {
			pausing()
			return
		}
		exit(Catch(func(c Caught) { fmt.Println(SignalName(c.Signal), c.PID) }, launcherSignals...))
		fmt.Println("up")
		if len(args) > 0 {
			go pastime[args[0]]()
		}
		io.Copy(io.Discard, os.Stdin)
	}
}

// stuck waits for its stdin with the first signal in hand, and says then what came.
func stuck() {
	in := bufio.NewReader(os.Stdin)
	hold := sync.OnceFunc(func() {
		fmt.Println("stuck")
		_, err := in.ReadString('\n')
		exit(err)
	})
	exit(Catch(func(c Caught) { hold(); fmt.Println(SignalName(c.Signal)) }, launcherSignals...))
	fmt.Println("up")
	select {}
}

// pausing reads signals and does not in turn, at each line of its stdin, and says which.
func pausing() {
	exit(Catch(func(c Caught) { fmt.Println(SignalName(c.Signal)) }, launcherSignals...))
	fmt.Println("up")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		outer, inner := PauseCaught(), PauseCaught()
		inner()
		inner() // counts once
		fmt.Println("paused")
		if !in.Scan() {
			return
		}
		fmt.Println("goes on")
		outer()
	}
}

// parentOfSenders says through which child signals came whose senders are that one's
// children and wait for the end of its input.
func parentOfSenders() {
	from := make(chan Caught)
	exit(Catch(func(c Caught) { from <- c }, launcherSignals...))
	fmt.Println("up")
	for range 20 {
		c := exec.Command("sh", "-c", fmt.Sprintf(`exec 3<&0; (kill -USR1 %d; read line <&3); true`, os.Getpid()))
		in, err := c.StdinPipe()
		exit(err)
		exit(c.Start())
		s := <-from
		fmt.Println(SignalName(s.Signal), s.PID, "through", s.Child, "of", c.Process.Pid)
		exit(in.Close())
		exit(c.Wait())
	}
}

// pastime is what a launcher does when signals come.
var pastime = map[string]func(){
	// What the runtime itself uses signals and threads for, on the smallest of stacks.
	"busy": func() {
		var deep func(n int) int
		deep = func(n int) int {
			if n == 0 {
				return len(make([]byte, 100))
			}
			return deep(n-1) + 1
		}
		for range 4 {
			go func() {
				for {
					var wg sync.WaitGroup
					for i := range 100 {
						wg.Go(func() { deep(i) })
					}
					runtime.GC()
					wg.Wait()
				}
			}()
		}
	},
	// Children in the same process group, which die of its signals or not.
	"forking": func() {
		for {
			_ = exec.Command("true").Run()
		}
	},
	"status": func() {
		status, err := exec.Command("grep", "-E", "SigBlk|SigIgn", "/proc/self/status").Output()
		exit(err)
		fmt.Print(string(status))
	},
}

// catcher is a process that has called Catch.
func catcher(t *testing.T, args ...string) talk {
	t.Helper()
	p := start(t, resolve(t, target(t, "catch", args...)))
	if got := p.line(t); got != "up" {
		t.Fatalf("%q", got)
	}
	return p
}

func TestTheSenderOfASignalIsTold(t *testing.T) {
	p := catcher(t)
	for _, sig := range launcherSignals {
		if err := syscall.Kill(p.PID(), sig); err != nil {
			t.Fatal(err)
		}
		p.says(t, fmt.Sprint(SignalName(sig), " ", os.Getpid()))
		// Another process, and the way to one thread alone.
		sh := exec.Command("sh", "-c", fmt.Sprintf("kill -%s %d; echo $$", SignalName(sig), p.PID()))
		out, err := sh.Output()
		if err != nil {
			t.Fatal(err)
		}
		p.says(t, SignalName(sig)+" "+strings.TrimSpace(string(out)))
		if err := unix.Tgkill(p.PID(), p.PID(), sig); err != nil {
			t.Fatal(err)
		}
		p.says(t, fmt.Sprint(SignalName(sig), " ", os.Getpid()))
	}
}

// Two that are read apart are two, in their order.
func TestSignalsKeepTheirOrderAndNumber(t *testing.T) {
	p := catcher(t)
	for range 500 {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGTERM} {
			if err := syscall.Kill(p.PID(), sig); err != nil {
				t.Fatal(err)
			}
			p.says(t, fmt.Sprint(SignalName(sig), " ", os.Getpid()))
		}
	}
}

func TestWhatATerminalSendsHasNoSender(t *testing.T) {
	pty, tty := terminal(t)
	c := exec.Command(exe(t))
	c.Env = append(os.Environ(), behaviour+"=catch")
	c.Stdin, c.Stdout, c.Stderr = tty, tty, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill() // it may have ended
		_ = c.Wait()         // killed
	})
	if err := pty.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(pty)
	expect := func(want string) {
		t.Helper()
		for lines.Scan() {
			if strings.HasSuffix(strings.TrimSpace(lines.Text()), want) { // behind the terminal's echo
				return
			}
		}
		t.Fatalf("no %q: %v", want, lines.Err())
	}
	expect("up")
	for key, want := range map[string]string{"\x03": "INT 0", "\x1c": "QUIT 0"} {
		if _, err := pty.WriteString(key); err != nil {
			t.Fatal(err)
		}
		expect(want)
	}
}

func TestAStopFromTheKeyboardStopsACatcherAsItDidBefore(t *testing.T) {
	p := catcher(t)
	if err := syscall.Kill(p.PID(), syscall.SIGTSTP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stop", func() bool { s, _, _ := readStat(p.PID()); return s.state == 'T' })
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGCONT} {
		if err := syscall.Kill(p.PID(), sig); err != nil {
			t.Fatal(err)
		}
	}
	p.says(t, fmt.Sprint("TERM ", os.Getpid()))
}

// terminal is a new pseudo terminal (pty(7)): its keyboard and screen, and the device.
func terminal(t *testing.T) (pty, tty *os.File) {
	t.Helper()
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Skip("needs a pseudo terminal: ", err)
	}
	t.Cleanup(func() { pty.Close() })
	control, err := pty.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	if err := control.Control(func(fd uintptr) {
		if number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN); err == nil {
			err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return pty, tty
}

func TestASignalIsNotLostInAStormOfAnother(t *testing.T) {
	p := catcher(t, "busy")
	stop, told := make(chan struct{}), make(chan struct{}, 100) // more than are sent
	var wg sync.WaitGroup
	sent := 0
	wg.Go(func() { // ends with stop
		for ; ; sent++ {
			select {
			case <-stop:
				return
			default:
				_ = syscall.Kill(p.PID(), syscall.SIGUSR1) // it is gone when the test has failed
			}
		}
	})
	wg.Go(func() { // ends with the process's output
		for lines := bufio.NewScanner(p.out); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "TERM ") {
				told <- struct{}{}
			}
		}
	})
	for i := range 50 {
		if err := syscall.Kill(p.PID(), syscall.SIGTERM); err != nil {
			t.Error(err)
			break
		}
		select {
		case <-told:
		case <-time.After(30 * time.Second):
			t.Errorf("TERM %d was not told", i)
		}
	}
	close(stop)
	p.in.Close()
	<-p.Done()
	wg.Wait()
	t.Logf("among %d USR1", sent)
}

// While nobody reads, each signal is kept, however many there are of another.
func TestAStormThatNobodyReadsHidesNoOtherSignal(t *testing.T) {
	p := catcher(t, "stuck")
	send := func(sig syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(p.PID(), sig); err != nil {
			t.Fatal(err)
		}
	}
	send(syscall.SIGHUP)
	p.says(t, "stuck")
	for range 10_000 {
		send(syscall.SIGUSR1)
		send(syscall.SIGTTIN)
	}
	send(syscall.SIGTERM)
	send(syscall.SIGQUIT)
	if _, err := p.in.WriteString("go on\n"); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for count["QUIT"] == 0 || count["TERM"] == 0 {
		count[p.line(t)]++
	}
	// And the flood leaves nothing behind.
	for range 3 * catchMax {
		send(syscall.SIGUSR1)
		for p.line(t) != "USR1" {
			continue
		}
	}
	if n := count["USR1"]; count["HUP"] != 1 || n < 1 || n > catchMax {
		t.Errorf("told: %v", count)
	}
}

func TestWhatComesInAPauseIsToldAfterIt(t *testing.T) {
	p := catcher(t, "pause")
	next := func() {
		t.Helper()
		if _, err := p.in.WriteString("next\n"); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		next()
		p.says(t, "paused")
		for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM} {
			if err := syscall.Kill(p.PID(), sig); err != nil {
				t.Fatal(err)
			}
			pending := func() bool { // none of them is on its way to the pipe
				b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
				return err == nil && strings.Contains(string(b), "ShdPnd:\t0000000000000000")
			}
			eventually(t, "the signal's arrival", pending)
		}
		next()
		p.says(t, "goes on")
		got := []string{p.line(t), p.line(t)}
		slices.Sort(got)
		if !slices.Equal(got, []string{"HUP", "TERM"}) {
			t.Error(got)
		}
	}
}

// Between fork and exec a child shares the launcher's memory and, for a moment, its
// handlers: what it is sent is not the launcher's. HUP ignored from the start, as
// under nohup, is where Go's runtime does not reset it in the child.
func TestASignalToAChildIsNotTakenForOnesOwn(t *testing.T) {
	p := catcher(t, "nohup")
	for i := range 2000 {
		if err := syscall.Kill(-p.PID(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		p.says(t, fmt.Sprint("HUP ", os.Getpid()))
		if err := syscall.Kill(p.PID(), syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		if got := p.line(t); !strings.HasPrefix(got, "USR1") {
			t.Fatalf("HUP %d was told twice: %q", i, got)
		}
	}
}

// The children of a process that catches signals begin with none ignored and none
// blocked, also those that os/exec starts.
func TestChildrenOfACatcherHaveTheirSignals(t *testing.T) {
	p := catcher(t, "status")
	for _, want := range []string{"SigBlk", "SigIgn"} {
		p.says(t, want+":\t0000000000000000")
	}
}

func TestARecordNamesNoSenderWhereTheKernelHasNone(t *testing.T) {
	for code, want := range map[int32]int{
		siUser: 77, siQueue: 77, siTkill: 77,
		-2: 0, 0x80: 0, 1: 0, // SI_TIMER, SI_KERNEL, POLL_IN: the field means something else
	} {
		head := [6]int32{int32(syscall.SIGHUP), 0, code, 0, 77, 1000}
		got := parseRecord(*(*[record]byte)(unsafe.Pointer(&head)))
		if got != (Caught{Signal: syscall.SIGHUP, PID: want}) {
			t.Errorf("code %d: %+v", code, got)
		}
	}
}

func TestADescendantIsFoundAndAStrangerIsNot(t *testing.T) {
	p := start(t, resolve(t, target(t, "parent", "stay")))
	grandchild := p.number(t)
	for pid, want := range map[int]int{
		p.PID(): p.PID(), grandchild: p.PID(), os.Getpid(): 0, os.Getppid(): 0, 1: 0, 0: 0,
	} {
		if got := Child(pid); got != want {
			t.Errorf("Child(%d) is %d, want %d", pid, got, want)
		}
	}
	if Ended(p.PID()) || Ended(os.Getpid()) {
		t.Error("one that runs has ended")
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if Child(p.PID()) != 0 || !Ended(p.PID()) {
		t.Error("one that was waited for has not ended")
	}
}

// A catcher is told which of its children a signal came through, also when the sender
// is one of that child's own.
func TestTheChildThatASignalCameThroughIsTold(t *testing.T) {
	p := catcher(t, "children")
	for range 20 {
		var pid, child, worker int
		if _, err := fmt.Sscanf(p.line(t), "USR1 %d through %d of %d", &pid, &child, &worker); err != nil {
			t.Fatal(err)
		}
		if child != worker || pid == child {
			t.Errorf("from %d through %d, want %d", pid, child, worker)
		}
	}
}

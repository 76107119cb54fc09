package upgrade

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"baton/internal/keep"
	"baton/internal/process"

	"golang.org/x/sys/unix"
)

// grace is how much longer than the prover the helper may take, and how long a prover
// that is not needed any more may.
const grace = 5 * time.Second

// linger is how long the last words of a prover that has ended are read for.
const linger = 100 * time.Millisecond

// Proof is a program that has shown that it can take over, and waits beside this one.
type Proof struct {
	// Version is what it says of itself.
	Version string

	path     string
	exe      int
	ask, say int
	prover   *process.Other
	warn     func(error)
}

// Prove runs the program at o.Path as a prover. The error says why it cannot take over;
// then nothing is left of it. Close a Proof that does not end in an exec.
func Prove(ctx context.Context, o Options) (_ *Proof, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("prove %s: %w", o.Path, err)
		}
	}()
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Warn == nil {
		o.Warn = func(error) {}
	}
	p := &Proof{path: o.Path, exe: -1, ask: -1, say: -1, warn: o.Warn}
	if p.exe, err = openProgram(o.Path); err != nil {
		return nil, err
	}
	if err := p.start(ctx, o); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// openProgram refuses what the kernel would, with better words than the helper's.
func openProgram(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	own := fmt.Sprintf("/proc/self/fd/%d", fd)
	err = unix.Fstat(fd, &st)
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = errors.New("not a file")
	case unix.Faccessat(unix.AT_FDCWD, own, unix.X_OK, unix.AT_EACCESS) != nil:
		err = errors.New("it may not be executed")
	default:
		err = elf(own)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// elf refuses a script: there is no exec of one that was opened.
func elf(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return nil //nolint:nilerr // it may be executed and not read
	}
	defer f.Close()
	var magic [4]byte
	if _, err := io.ReadFull(f, magic[:]); err != nil || string(magic[:]) != "\x7fELF" {
		return errors.New("not a program in the ELF format")
	}
	return nil
}

// run is one run of the helper.
type run struct {
	helper         *process.Process
	verdict, words *os.File
}

func (p *Proof) start(ctx context.Context, o Options) error {
	r, err := p.fork(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout+grace, errors.New("the helper does not end"))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		_ = r.helper.Kill() // gone already is as good
	})
	defer stop()
	words := make(chan string, 1)
	go func() { words <- tail(r.words) }() // ends with the deadline set below
	verdict, _ := io.ReadAll(r.verdict)    // ends with the helper, which alone has the other end
	r.verdict.Close()
	<-r.helper.Done()
	defer r.helper.Forget()
	if string(verdict) == proved {
		_ = r.words.SetReadDeadline(time.Now()) // a pipe that does not block has one
		<-words
		r.words.Close()
		return p.greet()
	}
	_ = r.helper.Kill() // the group: what the prover may have left
	_ = r.words.SetReadDeadline(time.Now().Add(linger))
	last := <-words
	r.words.Close()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return refusal(string(verdict), last, r.helper.Status())
}

// refusal says why there is no proof, in the prover's own words where it has any.
func refusal(verdict, words string, status process.Status) error {
	if verdict == "" {
		verdict = "the helper ended: " + status.String()
	}
	if words == "" {
		return errors.New(verdict)
	}
	return fmt.Errorf("%s: %s", verdict, words)
}

// fork starts the helper. What it gets are copies.
func (p *Proof) fork(o Options) (r *run, err error) {
	order := proof{State: o.State, Timeout: o.Timeout, Path: o.Path}
	fds := make([]int, 3+fdFiles-fdOrder)
	o.Files.Each(func(name string, fd int) {
		order.Names = append(order.Names, name)
		fds = append(fds, fd)
	})
	var theirs []int // closed here
	defer func() {
		for _, fd := range theirs {
			unix.Close(fd)
		}
	}()
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	theirs = append(theirs, null)
	memory, err := memfd("baton proof", order)
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, memory)
	var pipes [4][2]int // verdict, words, ask, say
	for i := range pipes {
		if err := unix.Pipe2(pipes[i][:], unix.O_CLOEXEC); err != nil {
			return nil, fmt.Errorf("pipe: %w", err)
		}
		end := 1
		if i == 2 {
			end = 0
		}
		theirs = append(theirs, pipes[i][end])
		switch own := pipes[i][1-end]; i {
		case 0:
			r = &run{verdict: reader(own)}
		case 1:
			r.words = reader(own)
		case 2:
			p.ask = own
		case 3:
			p.say = own
		}
	}
	copy(fds, []int{null, pipes[0][1], pipes[1][1], memory, p.exe, pipes[2][0], pipes[3][1], 2})
	env := o.Env
	if env == nil {
		env = os.Environ()
	}
	r.helper, err = process.Again([]string{helperCommand}, env, fds...)
	if err != nil {
		r.verdict.Close()
		r.words.Close()
		return nil, err
	}
	return r, nil
}

func reader(fd int) *os.File {
	_ = unix.SetNonblock(fd, true) // our end alone; without it a thread waits
	return os.NewFile(uintptr(fd), "pipe")
}

// greet reads who the prover is.
func (p *Proof) greet() error {
	var line []byte
	var b [1]byte
	for len(line) == 0 || line[len(line)-1] != '\n' {
		n, err := unix.Read(p.say, b[:])
		if err == unix.EINTR {
			continue
		}
		if n != 1 {
			return errors.New("the prover ended")
		}
		line = append(line, b[0])
	}
	var h hello
	if err := json.Unmarshal(line, &h); err != nil {
		return fmt.Errorf("the prover said %q: %w", line, err)
	}
	p.Version = h.Version
	other, err := process.OtherOf(h.PID)
	p.prover = other
	return err
}

// Close gives up: the prover ends.
func (p *Proof) Close() {
	for _, fd := range []*int{&p.ask, &p.say, &p.exe} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
	if p.prover == nil {
		return
	}
	if !p.prover.Ended(grace) {
		_ = p.prover.Kill() // gone already is as good
		p.prover.Ended(grace)
	}
	p.prover.Close()
	p.prover = nil
}

// Exec replaces this program by the one that was proved, and does not return unless that
// failed, with everything as it was. args are its arguments, the name first; env its
// environment; state and files are what Resumed says there.
//
// Call process.PauseCaught and look at what was told before the state is made: what is
// told and not in the state is lost. Have nothing started meanwhile.
func (p *Proof) Exec(args, env []string, state []byte, files *keep.Files) error {
	e := estate{PID: os.Getpid(), State: state, Files: map[string]int{}, Caught: process.CaughtFD(), Ask: p.ask}
	keeps := []int{p.ask}
	if e.Caught >= 0 {
		keeps = append(keeps, e.Caught)
	}
	files.Each(func(name string, fd int) {
		e.Files[name] = fd
		keeps = append(keeps, fd)
	})
	memory, err := memfd("baton upgrade", e)
	if err != nil {
		return fmt.Errorf("exec %s: %w", p.path, err)
	}
	defer unix.Close(memory)
	return process.Become(process.Image{
		Exe: p.exe, Args: args, Env: append(env[:len(env):len(env)], fmt.Sprintf("%s=%d", variable, memory)),
		Files: append(keeps, memory), Ask: p.ask, Say: p.say, Holder: p.prover,
		Unheld: func(err error) {
			p.warn(fmt.Errorf("signals that come during the exec are not kept: %w", err))
		},
	})
}

// tail is what a program said at last, in a line: of a panic its first line, otherwise
// the last ones.
func tail(from io.Reader) string {
	var last []string
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		line := strings.ToValidUTF8(strings.TrimSpace(lines.Text()), "?")
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			_, _ = io.Copy(io.Discard, from) // to the end or the deadline
			return line
		}
		if line != "" {
			last = append(last, line)
		}
		last = last[max(0, len(last)-3):]
	}
	return strings.Join(last, "; ")
}

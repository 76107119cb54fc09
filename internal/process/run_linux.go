package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// linger is how long the output of a job is still read after its end: what it wrote
// itself is in the pipe by then, and who left its group may hold the pipe for ever.
const linger = 100 * time.Millisecond

// Run starts a job, waits for its end, and ends what it left behind in its process
// group; what has left that group is nobody's any more, and is not waited for. said
// is the end of what it wrote to its standard output and error, at most 4 KiB.
//
// err is why it could not be started, or "exit status 1: the last line it said";
// nil for exit status 0. When ctx ends first, the group is killed, and err is ctx's
// cause.
func Run(ctx context.Context, j Job) (said string, err error) {
	p, out, err := j.start(ctx)
	if j.Started != nil {
		j.Started(p)
	}
	if err != nil {
		return "", err
	}
	defer out.Close() // read only
	return p.await(ctx, out)
}

// start returns the read end of the job's output; with an error, nothing is left.
func (j Job) start(ctx context.Context) (*Process, *os.File, error) {
	in := -1
	if j.Input != nil {
		var err error
		if in, err = memory("baton input", j.Input); err != nil {
			return nil, nil, fmt.Errorf("exec %s: input: %w", j.Release.path, err)
		}
		defer unix.Close(in) // the job has its own
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("exec %s: pipe: %w", j.Release.path, err)
	}
	defer unix.Close(pipe[1]) // likewise
	// Of the read end alone; without it the deadline in await could not be set.
	_ = unix.SetNonblock(pipe[0], true) // it fails for no pipe
	out := os.NewFile(uintptr(pipe[0]), "output of "+j.Release.path)
	p, err := Start(ctx, Spec{Release: j.Release, Env: j.Env, Stdin: in, Stdout: pipe[1], Stderr: pipe[1]})
	if err != nil {
		out.Close() // read only
		return nil, nil, err
	}
	return p, out, nil
}

// await waits for the end of a job and says how it ended.
func (p *Process) await(ctx context.Context, out *os.File) (string, error) {
	stop := context.AfterFunc(ctx, func() {
		_ = p.Kill() // gone already is as good
	})
	defer stop()
	words := make(chan string, 1)
	go func() { words <- tail(out) }() // ends with the pipe, or its deadline
	<-p.Done()
	p.letGo()
	_ = out.SetReadDeadline(time.Now().Add(linger)) // a pipe that does not block has one
	said := <-words
	switch status := p.Status(); {
	case ctx.Err() != nil:
		return said, context.Cause(ctx)
	case status.Code == 0 && status.Signal == 0:
		return said, nil
	case said != "":
		return said, fmt.Errorf("%v: %s", status, said[strings.LastIndexByte(said, '\n')+1:])
	default:
		return "", errors.New(status.String())
	}
}

// letGo ends what is left of the group. Nobody signals it after that, so that its pidfd
// need not wait until the last of them is reaped, which a zombie's parent may never do.
func (p *Process) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.kill(unix.SIGKILL) // nobody is as good
	p.gone = true
	p.fd.close()
}

// tail reads to the end and returns the last of it that is not blank.
func tail(r io.Reader) string {
	var kept []byte
	buf := make([]byte, lastWords)
	for {
		n, err := r.Read(buf)
		kept = append(kept, buf[:n]...)
		kept = kept[max(0, len(kept)-lastWords):]
		if err != nil {
			return strings.ToValidUTF8(string(bytes.TrimSpace(kept)), "?")
		}
	}
}

// memory is a file that nobody else has, holds b, and is read from its beginning.
func memory(name string, b []byte) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return -1, err
	}
	for at := 0; at < len(b); {
		n, err := unix.Pwrite(fd, b[at:], int64(at))
		if err != nil {
			unix.Close(fd) // memory: nothing to lose
			return -1, err
		}
		at += n
	}
	return fd, nil
}

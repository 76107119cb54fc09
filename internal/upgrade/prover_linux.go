package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"baton/internal/keep"
	"baton/internal/process"

	"github.com/cloudflare/tableflip"
	"golang.org/x/sys/unix"
)

// The helper's descriptors behind standard input (nothing), output (the verdict) and
// error (the prover's, until it is ready).
const (
	fdOrder = iota + 3
	fdExe
	fdAsk
	fdSay
	fdErr   // the launcher's own standard error
	fdFiles // the first of them
)

// Under these names tableflip passes what is not a file of keep's, whose names have no
// slash.
const (
	nameOrder = "/order"
	nameAsk   = "/ask"
	nameSay   = "/say"
	nameErr   = "/err"
)

// sentinel is how tableflip knows a child of its own.
const sentinel = "TABLEFLIP_HAS_PARENT_7DIU3"

// proved is the helper's verdict when all is well.
const proved = "proved"

// helper runs the new program under tableflip until it is ready. It says so, or why
// not, on its standard output.
func helper() error {
	var o proof
	if err := readMemfd(fdOrder, &o); err != nil {
		return fmt.Errorf("%s is for baton's own use: %w", helperCommand, err)
	}
	verdict := proved
	ask, err := duplicate(fdAsk, 3) // the other one becomes tableflip's
	if err == nil {
		// It has copies of the launcher's sockets: who connects to one that nobody else has
		// any more would not be answered.
		go process.EndWith(ask) // ends with the process
		err = o.flip()
	}
	if err != nil {
		verdict = err.Error()
	}
	_, err = os.Stdout.WriteString(verdict)
	return err
}

func (o *proof) flip() error {
	files := map[string]int{nameOrder: fdOrder, nameAsk: fdAsk, nameSay: fdSay, nameErr: fdErr}
	for i, name := range o.Names {
		files[name] = fdFiles + i
	}
	for _, fd := range files {
		unix.CloseOnExec(fd)
	}
	// Above every number that fork may use to put the others in their places.
	exe, err := duplicate(fdExe, 4*(len(files)+fdFiles)+64)
	if err != nil {
		return err
	}
	unix.Close(fdExe)
	_ = os.Unsetenv(sentinel) // of another tableflip above the launcher; fails for a bad name only
	u, err := tableflip.New(tableflip.Options{UpgradeTimeout: o.Timeout})
	if err != nil {
		return err
	}
	for name, fd := range files {
		// tableflip reaches the descriptor by SyscallConn: Fd would clear O_NONBLOCK
		// of what workers hold.
		if err := u.AddFile(name, os.NewFile(uintptr(fd), name)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := u.Ready(); err != nil {
		return err
	}
	stdout := os.Stdout
	defer func() { os.Stdout = stdout }()
	os.Stdout = os.Stderr // the prover's; the verdict is ours
	os.Args = []string{fmt.Sprintf("/proc/self/fd/%d", exe), proverCommand}
	for {
		// Ready is told to a goroutine of tableflip's, which may hear of Upgrade first.
		if err := u.Upgrade(); err == nil || err.Error() != "process is not ready yet" {
			return err
		}
	}
}

// prove is the prover: it checks, says that it can take over, and begins afresh to watch,
// without anything that the check has opened or begun. From then on its standard error
// is the launcher's.
func (p *Prover) prove() error {
	u, err := tableflip.New(tableflip.Options{})
	if err != nil {
		return err
	}
	if !u.HasParent() {
		return fmt.Errorf("%s is for baton's own use", proverCommand)
	}
	_ = os.Unsetenv(sentinel) // likewise
	var fds [4]int
	for i, name := range []string{nameOrder, nameAsk, nameSay, nameErr} {
		if fds[i], err = inherited(u, name); err != nil {
			return err
		}
	}
	var o proof
	if err := readMemfd(fds[0], &o); err != nil {
		return err
	}
	go process.EndWith(fds[1]) // ends with the process, or when that begins afresh
	what, err := p.check(u, &o)
	if err != nil {
		return err
	}
	line, err := json.Marshal(hello{os.Getpid(), p.Version})
	if err != nil {
		return err
	}
	if _, err := unix.Write(fds[2], append(line, '\n')); err != nil {
		return fmt.Errorf("tell the launcher: %w", err)
	}
	if err := errors.Join(unix.Dup3(fds[3], 1, 0), unix.Dup3(fds[3], 2, 0)); err != nil {
		return err
	}
	if err := u.Ready(); err != nil {
		return err
	}
	return process.Afresh([]string{watchCommand, strconv.Itoa(fds[1]), strconv.Itoa(fds[2]), what}, fds[1], fds[2])
}

// watch holds signals while the launcher execs, and then waits for the new program.
func (p *Prover) watch() error {
	var files [2]*os.File
	for i := range files {
		if len(os.Args) != 3+len(files) {
			return fmt.Errorf("%s is for baton's own use", watchCommand)
		}
		fd, err := strconv.Atoi(os.Args[2+i])
		if err != nil || fd < 3 {
			return fmt.Errorf("%s is for baton's own use", watchCommand)
		}
		unix.CloseOnExec(fd)
		files[i] = os.NewFile(uintptr(fd), "launcher")
	}
	pid, err := process.HoldSignals(files[0], files[1])
	switch {
	case errors.Is(err, io.EOF):
		return nil // it was given up
	case err != nil:
		return fmt.Errorf("upgrade: %w", err)
	}
	return p.await(pid, os.Args[2+len(files)])
}

func (p *Prover) check(u *tableflip.Upgrader, o *proof) (what string, err error) {
	files := &keep.Files{}
	defer files.Close()
	for _, name := range o.Names {
		fd, err := inherited(u, name)
		if err != nil {
			return "", err
		}
		files.Put(name, fd)
	}
	return p.Check(o.State, files)
}

// inherited is a descriptor of our own; tableflip's copies are closed.
func inherited(u *tableflip.Upgrader, name string) (int, error) {
	f, err := u.File(name)
	if err != nil {
		return -1, err
	}
	if f == nil {
		return -1, fmt.Errorf("descriptor %q: %w", name, keep.ErrMissing)
	}
	defer f.Close() // a copy
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	own, dup := -1, error(nil)
	if err := raw.Control(func(fd uintptr) { own, dup = duplicate(int(fd), 3) }); err != nil {
		return -1, err
	}
	return own, dup
}

// askEvery is how often the new program is asked whether it serves.
const askEvery = 50 * time.Millisecond

// await returns nil when the new program answers.
func (p *Prover) await(pid int, what string) error {
	patience := p.Patience
	if patience == 0 {
		patience = time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	again := time.NewTicker(askEvery)
	defer again.Stop()
	// Not by its number: one that nobody has waited for yet still has it.
	program, err := process.OtherOf(pid)
	if err != nil {
		return fmt.Errorf("upgrade: the new program has ended before it answered: %w", err)
	}
	defer program.Close()
	for {
		err := p.Answers(ctx, what)
		if err == nil {
			return nil
		}
		if program.Ended(0) {
			return fmt.Errorf("upgrade: the new program, process %d, has ended before it answered: %w", pid, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("upgrade: the new program, process %d, does not answer after %v: %w", pid, patience, err)
		case <-again.C:
		}
	}
}

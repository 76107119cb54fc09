//go:build amd64 || arm64

package process

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// caughtTime is how long signals are held for a new program that does not catch them.
const caughtTime = 30 * time.Second

// HoldSignals serves a process that calls Become and what it becomes: it reads orders
// from ask, says replies to say, and returns once the new program catches signals, with
// its pid. io.EOF: nothing came of it, and ask was closed.
//
// From before the exec until the new program has called Catch, signals that would be
// its death are taken away from it by ptrace(2), and sent to it again afterwards, with
// their senders. Go's runtime would unblock them before anybody can handle them, so a
// signal mask cannot keep them. The process that calls this must have no children.
func HoldSignals(ask io.Reader, say io.Writer) (pid int, err error) {
	s := &holder{say: say, orders: make(chan string)}
	go func() { // ends with ask
		for lines := bufio.NewScanner(ask); lines.Scan(); {
			s.orders <- lines.Text()
		}
		close(s.orders)
	}()
	for {
		done, err := s.next()
		if done || err != nil {
			return s.pid, err
		}
	}
}

type holder struct {
	say    io.Writer
	orders chan string
	pid    int
	hold   *hold // nil: nobody is held
}

func (s *holder) next() (done bool, err error) {
	var ended <-chan struct{}
	var late <-chan time.Time
	if s.hold != nil {
		ended, late = s.hold.ended, time.After(caughtTime)
	}
	select {
	case order, ok := <-s.orders:
		if !ok {
			s.free(false)
			return true, io.EOF
		}
		return s.obey(order)
	case <-ended:
		return true, fmt.Errorf("process %d ended before it caught signals", s.pid)
	case <-late:
		s.free(false)
		return true, fmt.Errorf("process %d did not catch signals within %v", s.pid, caughtTime)
	}
}

func (s *holder) obey(order string) (done bool, err error) {
	var thread int
	var mask uint64
	switch {
	case order == OrderCaught:
		s.free(true)
		return true, nil
	case order == orderRelease:
		s.free(true)
		return false, s.reply(string(replyFree))
	case s.hold == nil:
		if n, _ := fmt.Sscanf(order, orderHold+" %d %d %x", &s.pid, &thread, &mask); n != 3 {
			return true, fmt.Errorf("unknown order %q", order)
		}
		if s.hold, err = newHold(s.pid, thread, mask); err != nil {
			return false, s.reply(fmt.Sprintf("%c%v\n", replyRefused, err))
		}
		return false, s.reply(string(replyHeld))
	}
	return true, fmt.Errorf("unknown order %q", order)
}

// free lets go. What was held is told if the program can take it; else only what asks
// for its end.
func (s *holder) free(all bool) {
	if s.hold == nil {
		return
	}
	s.hold.free()
	for _, info := range s.hold.taken {
		switch sig := info.signal(); {
		case all, sig == syscall.SIGTERM, sig == syscall.SIGINT, sig == syscall.SIGQUIT:
			_ = info.send(s.pid) // it may have ended
		}
	}
	s.hold = nil
}

func (s *holder) reply(words string) error {
	_, err := io.WriteString(s.say, words)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) {
		return nil // it ended, which shows
	}
	return err
}

package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const supported, unsupported = true, ""

// atOnce is how many descriptors one message takes: fewer than the kernel's SCM_MAX_FD.
const atOnce = 64

// send sends a message, and waits no longer than patience for room. What is to be tried
// again has been waited for.
//
// Not go-systemd's daemon.SdNotify: it waits for as long as the manager does not read,
// and has no way to send descriptors.
func send(address string, m message, patience time.Duration) error {
	limit := time.Now().Add(patience)
	err := sendBy(address, m, limit)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s: it does not read what it is told; %w", address, errLater)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		time.Sleep(time.Until(limit))
		return fmt.Errorf("%w; %w", err, errLater)
	}
	return err
}

func sendBy(address string, m message, limit time.Time) error {
	c, err := (&net.Dialer{}).DialContext(context.Background(), "unixgram", address) // to connect takes no time
	if err != nil {
		return err
	}
	defer c.Close() // all was sent, or the error says so
	var rights []byte
	if len(m.fds) > 0 {
		rights = unix.UnixRights(m.fds...)
	}
	if err := c.SetWriteDeadline(limit); err != nil {
		return err
	}
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	// WriteMsgUnix refuses a datagram socket that is connected, and else waits for nothing.
	var sent error
	err = raw.Write(func(s uintptr) bool {
		sent = unix.Sendmsg(int(s), []byte(m.text), rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		return !errors.Is(sent, unix.EAGAIN) && !errors.Is(sent, unix.EINTR)
	})
	if err == nil && sent != nil {
		err = fmt.Errorf("sendmsg %s: %w", address, sent)
	}
	return err
}

// duplicate makes copies of descriptors, which no process started meanwhile inherits.
func duplicate(fds []int) ([]int, error) {
	var copies []int
	for _, fd := range fds {
		c, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			release(copies)
			return nil, fmt.Errorf("descriptor %d: %w", fd, err)
		}
		copies = append(copies, c)
	}
	return copies, nil
}

func release(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd) // a copy: nothing is lost with it
	}
}

// monotonic is the clock by which a manager knows when a reload began.
func monotonic() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // fails for clocks that there are not
	return time.Duration(now.Nano())
}

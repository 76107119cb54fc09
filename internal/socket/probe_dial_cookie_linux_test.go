package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// With SYN cookies a handshake is nobody's until its last packet.
func TestADialWithSYNCookies(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("needs root: a network of its own")
	}
	result := make(chan error, 1)
	go func() { // ends with what it does, and its thread with it
		runtime.LockOSThread()
		result <- dialWithCookies(t)
	}()
	err := <-result
	if errors.Is(err, unix.EPERM) || errors.Is(err, fs.ErrPermission) {
		t.Skipf("needs a network of its own: %v", err)
	}
	must(t, err)
}

// dialWithCookies runs on a thread of its own. Nothing that asks sock_diag may run
// on another, so that volleys and workers are out of place here.
func dialWithCookies(t *testing.T) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/tcp_syncookies", []byte("2"), 0); err != nil {
		return err
	}
	_, a, err := ParseAddress("127.0.0.1:80")
	if err != nil {
		return err
	}
	listener, err := Listen(context.Background(), a, Options{})
	if err != nil {
		return err
	}
	defer listener.Close()
	l, ok := listener.(*steered)
	if !ok {
		return fmt.Errorf("not steered: %s", listener.Reason())
	}
	if err := l.Reserve(1); err != nil {
		return err
	}
	fd, err := l.FD(1)
	if err != nil {
		return err
	}
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		c, err := l.Dial(ctx, 1, nil)
		cancel()
		if err != nil {
			return err
		}
		defer c.Close()
		own, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			return fmt.Errorf("accept on the slot that was dialed: %w", err)
		}
		unix.Close(own)
	}
	sent, err := os.ReadFile("/proc/thread-self/net/netstat")
	if err != nil {
		return err
	}
	if n := counter(string(sent), "SyncookiesRecv"); n != "3" {
		return fmt.Errorf("%q handshakes ended with a cookie, want 3", n)
	}
	return nil
}

// counter finds one of /proc/net/netstat, where a line of names comes before each
// line of numbers.
func counter(text, name string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines[:len(lines)-1] {
		if at := slices.Index(strings.Fields(line), name); at >= 0 {
			return strings.Fields(lines[i+1])[at]
		}
	}
	return ""
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

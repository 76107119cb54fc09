package testkit

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// sayReady sends what the behaviours ask for.
func (w *worker) sayReady() error {
	if w.behave["notify"] == "hostile" {
		if err := sendHostile(); err != nil {
			return err
		}
	}
	how := w.behave["ready"]
	late, isLate := strings.CutPrefix(how, "late:")
	file, isFile := strings.CutPrefix(how, "file:")
	switch {
	case how == "notify":
		return Notify("READY=1")
	case isLate:
		time.AfterFunc(duration(late), func() {
			if err := Notify("READY=1"); err != nil {
				w.fail(err)
			}
		})
	case isFile:
		go func() { // ends with the process, when there is no such file before
			for range time.Tick(5 * time.Millisecond) {
				if _, err := os.Stat(file); err == nil {
					break
				}
			}
			if err := Notify("READY=1"); err != nil {
				w.fail(err)
			}
		}()
	case how != "" && how != "none" && how != "never":
		return fmt.Errorf("behaviour ready=%s: unknown", how)
	}
	return nil
}

// watchdog says that the worker is well, until it is silenced.
func (w *worker) watchdog(every time.Duration) {
	for range time.Tick(every) {
		if w.silent.Load() {
			return
		}
		if err := Notify("WATCHDOG=1"); err != nil {
			w.fail(err)
		}
	}
}

// Notify sends one datagram to NOTIFY_SOCKET from this process (sd_notify(3)).
func Notify(message string) error { return NotifyFiles(os.Getenv("NOTIFY_SOCKET"), message) }

// NotifyFiles sends one datagram with descriptors to the notify socket at path,
// "@" first if it is abstract.
func NotifyFiles(path, message string, fds ...int) error {
	// Bare system calls: net has no way to send descriptors by a socket that is
	// not bound. It blocks while the receiver's queue is full.
	s, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return fmt.Errorf("notify: socket: %w", err)
	}
	syscall.CloseOnExec(s)
	defer func() { _ = syscall.Close(s) }() // all was sent, or the error says so
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	if err := syscall.Sendmsg(s, []byte(message), rights, &syscall.SockaddrUnix{Name: path}, 0); err != nil {
		return fmt.Errorf("notify %s: %w", path, err)
	}
	return nil
}

// sendHostile sends what a broken or malicious program may, none of which says
// that it is ready or ends.
func sendHostile() error {
	path := os.Getenv("NOTIFY_SOCKET")
	for _, m := range []string{
		"\n", "\n\n\n", "=", "READY", "READY=", "READY=0", "READY=2", "READY=1x", "ready=1", " READY=1",
		"MAINPID=1", "MAINPID=-1", "MAINPID=self", "EXTEND_TIMEOUT_USEC=-1", "EXTEND_TIMEOUT_USEC=many",
		"EXTEND_TIMEOUT_USEC=99999999999999999999999999", "WATCHDOG_USEC=0", "ERRNO=x", "BARRIER=1",
		"STATUS=" + strings.Repeat("long ", 1000), "STATUS=\x00\x1b[31mred\x1b]0;title\a\xff\xfe",
		strings.Repeat("X=1\n", 1000),
	} {
		if err := NotifyFiles(path, m); err != nil {
			return err
		}
	}
	for i := range 500 {
		if err := NotifyFiles(path, fmt.Sprintf("STATUS=%d", i)); err != nil {
			return err
		}
	}
	// A launcher that keeps these runs out of descriptors.
	for range 20 {
		if err := NotifyFiles(path, "FDSTORE=1\nFDNAME=x", 0, 1, 2); err != nil {
			return err
		}
		if err := NotifyFiles(path, "BARRIER=1", 0, 1); err != nil {
			return err
		}
	}
	return nil
}

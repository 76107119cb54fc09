package socket

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestASocketThatListensIsFoundByItsInode(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	want := netip.MustParseAddrPort(l.Addr().String())
	count := func() (n int) {
		t.Helper()
		found, err := Listening()
		if err != nil {
			t.Fatal(err)
		}
		for inode, at := range found {
			if at == want && inode != 0 {
				n++
			}
		}
		return n
	}
	if n := count(); n != 1 {
		t.Errorf("found %d times", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 0 {
		t.Errorf("found %d times after it was closed", n)
	}
}

func TestTheInodeOfAConnectionIsThatOfItsNearEnd(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ends := [2]netip.AddrPort{netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(c.RemoteAddr().String())}
	near, err := Inode(ends[0], ends[1])
	if err != nil || near != statInode(t, c.(*net.TCPConn)) {
		t.Errorf("near end: inode %d, %v", near, err)
	}
	// The far end waits to be accepted.
	if far, err := Inode(ends[1], ends[0]); far != 0 || err != nil {
		t.Errorf("far end: inode %d, %v; want 0", far, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// statInode is what fstat(2) says.
func statInode(t *testing.T, c *net.TCPConn) uint64 {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.Fstat(int(fd), &st) }); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return st.Ino
}

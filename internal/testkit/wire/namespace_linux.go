package wire

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace, which lives as long as its descriptor or a
// process in it does (network_namespaces(7)).
type namespace struct{ file *os.File }

const ownNamespace = "/proc/thread-self/ns/net"

func newNamespace() (*namespace, error) {
	n := &namespace{}
	err := away(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			n.file, err = os.Open(ownNamespace)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("new network namespace: %w", err)
	}
	return n, nil
}

// do calls f on a thread that is in the namespace. What f makes there, a socket
// or a process, belongs to the namespace for good and may be used anywhere.
func (n *namespace) do(f func() error) error {
	return away(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("setns: %w", err)
		}
		return f()
	})
}

// away calls f on a thread of its own, and brings that thread back to the
// namespace that it came from.
func away(f func() error) error {
	result := make(chan error)
	go func() { // ends with f
		runtime.LockOSThread()
		home, err := os.Open(ownNamespace)
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer home.Close()
		err = f()
		// A thread that cannot go home stays locked, and ends with this goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

func (n *namespace) close() { _ = n.file.Close() } // nothing was written to it

// tun makes the namespace's device with its addresses, brings it and loopback
// up, and returns the device's other end: a packet per read and write. The
// device goes when that is closed.
func (n *namespace) tun(v4, v6 string) (device *os.File, err error) {
	err = n.do(func() error {
		var inner error
		device, inner = openTun()
		if inner != nil {
			return inner
		}
		return setUp(v4, v6)
	})
	if err != nil && device != nil {
		_ = device.Close() // the error says enough
	}
	return device, err
}

const deviceName = "wire0"

func openTun() (*os.File, error) {
	// Not os.Open: it would poll the descriptor before there is a device to poll.
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(deviceName)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd) // the error says enough
		return nil, fmt.Errorf("tun device: %w", err)
	}
	return os.NewFile(uintptr(fd), deviceName), nil
}

// setUp gives the device its addresses in the namespace of this thread
// (netdevice(7)).
func setUp(v4, v6 string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	address := netip.MustParseAddr(v4).As4()
	for _, step := range []struct {
		what    string
		device  string
		request uint
		set     func(*unix.Ifreq) error
	}{
		{"loopback up", "lo", unix.SIOCSIFFLAGS, flags(unix.IFF_UP)},
		{"address", deviceName, unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(address[:]) }},
		{"netmask", deviceName, unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) }},
		// The device's own queue must not lose what the wire does not.
		{"queue", deviceName, unix.SIOCSIFTXQLEN, func(r *unix.Ifreq) error { r.SetUint32(20_000); return nil }},
		{"device up", deviceName, unix.SIOCSIFFLAGS, flags(unix.IFF_UP | unix.IFF_RUNNING)},
	} {
		request, err := unix.NewIfreq(step.device)
		if err == nil {
			err = step.set(request)
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, step.request, request)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return setAddress6(v6)
}

func flags(f uint16) func(*unix.Ifreq) error {
	return func(r *unix.Ifreq) error { r.SetUint16(f); return nil }
}

// in6Ifreq is struct in6_ifreq of linux/ipv6.h.
type in6Ifreq struct {
	address [16]byte
	prefix  uint32
	index   int32
}

func setAddress6(address string) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	name, err := unix.NewIfreq(deviceName)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, name); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	request := in6Ifreq{netip.MustParseAddr(address).As16(), 64, int32(name.Uint32())}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return fmt.Errorf("address %s: %w", address, errno)
	}
	return nil
}

package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// canary is a table that gives percent of the connections to slot 1: by chance,
// or by client.
func canary(percent int, byClient bool) []Share {
	table := []Share{{Slot: 0, Weight: 100 - percent}, {Slot: 1, Weight: percent}}
	if byClient {
		table[1].Side = 1
	}
	return table
}

// taker connects from client and returns the slot that the connection came to. It
// does all on the caller's thread, whose network may be one of its own, and leaves
// nothing in TIME_WAIT.
func taker(l *steered, client netip.Addr) (slot int, err error) {
	at := endpoint{stream: true, addr: client, port: l.at.port}
	fd, err := at.socket()
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	if err == nil {
		err = at.from(client, 0).bind(fd)
	}
	to := netip.AddrPortFrom(l.at.addr, l.at.port)
	if l.at.addr.IsUnspecified() {
		to = at.target(client)
	}
	sa, saErr := at.sockaddr(to)
	if err = errors.Join(err, saErr); err != nil {
		return -1, err
	}
	// Over loopback the handshake is through when connect returns.
	if err := unix.Connect(fd, sa); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return -1, err
	}
	for slot, m := range l.slots {
		server, _, err := unix.Accept4(m.fd, unix.SOCK_CLOEXEC)
		if err == nil {
			unix.Close(server)
			return slot, nil
		}
		if !errors.Is(err, unix.EAGAIN) {
			return -1, err
		}
	}
	return -1, fmt.Errorf("the connection from %s came to no slot", client)
}

func twoSlots(t *testing.T, address string) *steered {
	t.Helper()
	return steeredWith(t, address, 2, Options{NonBlocking: true})
}

// loopClients are n addresses of 127.0.0.0/8.
func loopClients(n int) (clients []netip.Addr) {
	for i := range n {
		clients = append(clients, v4(127<<24+uint32(i)*397+2))
	}
	return clients
}

func TestATenthOfTheConnectionsByChance(t *testing.T) {
	const connections, part = 10_000, 0.1
	l := twoSlots(t, "127.0.0.1:0")
	must(t, l.Steer(canary(10, false)))
	got := 0
	for range connections {
		slot, err := taker(l, netip.MustParseAddr("127.0.0.1"))
		must(t, err)
		got += slot
	}
	// Beyond 4.5 standard deviations by chance once in 147,000 runs.
	if sigma := math.Sqrt(connections * part * (1 - part)); math.Abs(float64(got)-connections*part) > 4.5*sigma {
		t.Errorf("%d of %d connections came to a canary of 10 %%", got, connections)
	}
}

// follow steers through the steps of a canary and returns the clients on side 1 in
// each. An error says that a client has changed sides within a step or has left
// side 1 at a higher one.
func follow(l *steered, clients []netip.Addr, percents ...int) (steps [][]netip.Addr, err error) {
	before := map[netip.Addr]bool{}
	for _, percent := range percents {
		if err := l.Steer(canary(percent, true)); err != nil {
			return nil, err
		}
		slots := make(map[netip.Addr]int)
		for try := range 20 {
			for _, client := range clients {
				slot, err := taker(l, client)
				if err != nil {
					return nil, err
				}
				if was, met := slots[client]; met && was != slot {
					return nil, fmt.Errorf("%s changed from %d to %d at connection %d within %d %%", client, was, slot, try, percent)
				}
				slots[client] = slot
			}
		}
		for client := range before {
			if slots[client] != 1 {
				return nil, fmt.Errorf("%s left side 1 at %d %%", client, percent)
			}
		}
		now := slices.SortedFunc(maps.Keys(slots), netip.Addr.Compare)
		now = slices.DeleteFunc(now, func(c netip.Addr) bool { return slots[c] == 0 })
		for _, c := range now {
			before[c] = true
		}
		steps = append(steps, now)
	}
	return steps, nil
}

// plausible: a part of 100 clients, within 4.5 standard deviations.
func plausible(n, percent int) bool {
	return math.Abs(float64(n-percent)) <= 4.5*math.Sqrt(float64(percent*(100-percent))/100)
}

func TestClientsStayOnTheirSide(t *testing.T) {
	percents := []int{10, 25, 50, 90}
	var all [][][]netip.Addr
	for _, address := range []string{"tcp4://:0", ":0"} {
		steps, err := follow(twoSlots(t, address), loopClients(100), percents...)
		must(t, err)
		for i, now := range steps {
			t.Logf("%s: %d %% are %d of 100 clients", address, percents[i], len(now))
			if !plausible(len(now), percents[i]) {
				t.Errorf("%s: %d %% are %d of 100 clients", address, percents[i], len(now))
			}
		}
		all = append(all, steps)
	}
	for i := range percents {
		if !slices.Equal(all[0][i], all[1][i]) {
			t.Errorf("%d %%: over IPv4 to an IPv6 socket other clients are chosen than on an IPv4 socket", percents[i])
		}
	}
}

func TestClientsWithIPv6StayOnTheirSide(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("needs root: a network of its own")
	}
	result := make(chan error, 1)
	go func() { // ends with what it does, and its thread with it
		runtime.LockOSThread()
		result <- followIPv6()
	}()
	err := <-result
	if errors.Is(err, unix.EPERM) || errors.Is(err, fs.ErrPermission) {
		t.Skipf("needs a network of its own: %v", err)
	}
	must(t, err)
}

// followIPv6 runs on a thread of its own, and sock_diag may be asked on no other.
func followIPv6() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	var clients []netip.Addr
	for i := range uint32(100) {
		c := v6(0xfd000000+i/50, i/10, 0, i+1)
		if err := loopbackHas(c); err != nil {
			return fmt.Errorf("add %s: %w", c, err)
		}
		clients = append(clients, c)
	}
	_, a, err := ParseAddress("tcp6://:80")
	if err != nil {
		return err
	}
	listener, err := Listen(context.Background(), a, Options{NonBlocking: true})
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
	percents := []int{10, 50}
	steps, err := follow(l, clients, percents...)
	if err != nil {
		return err
	}
	for i, now := range steps {
		if !plausible(len(now), percents[i]) {
			return fmt.Errorf("%d %% are %d of 100 clients", percents[i], len(now))
		}
	}
	return nil
}

// loopbackHas gives the loopback device of this thread's network an address. The
// argument of the call is struct in6_ifreq of linux/ipv6.h.
func loopbackHas(addr netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request := struct {
		address [16]byte
		prefix  uint32
		index   int32
	}{addr.As16(), 128, 1} // loopback is the first device of any network
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return errno
	}
	return nil
}

// For udp the side is the client's too, and a flow stays together on it.
func TestDatagramsStayOnTheirSide(t *testing.T) {
	l := steeredAt(t, "udp4://127.0.0.1:0", 3)
	for slot := range 3 {
		answering(t, l, slot)
	}
	must(t, l.Steer([]Share{{Slot: 0, Weight: 2}, {Slot: 1, Weight: 1, Side: 1}, {Slot: 2, Weight: 1, Side: 1}}))
	ones := 0
	for _, client := range loopClients(40) {
		sides, slots := make(map[bool]bool), make(map[int]bool)
		for range 8 {
			c, err := net.DialUDP("udp4", &net.UDPAddr{IP: client.AsSlice()}, net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.at.addr, l.at.port)))
			must(t, err)
			slot := exchange(t, c)
			if again := exchange(t, c); again != slot {
				t.Errorf("a flow of %s came to %d, then to %d", client, slot, again)
			}
			must(t, c.Close())
			sides[slot > 0], slots[slot] = true, true
		}
		if len(sides) != 1 {
			t.Errorf("%s came to both sides: %v", client, slots)
		}
		if sides[true] {
			ones++
		}
	}
	if ones < 6 || ones > 34 { // 20, with a standard deviation of 3.2
		t.Errorf("%d of 40 clients on side 1", ones)
	}
}

// The kernel takes the largest program that there will be.
func TestTheKernelTakesAProgramForHundredsOfWorkers(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 1)
	table := make([]share, 300)
	rules := make([]isolation, 150)
	for i := range table {
		table[i] = share{index: l.index(0), weight: 1, side: i % 2}
	}
	for i := range rules {
		rules[i] = isolation{netip.AddrPortFrom(netip.IPv6Loopback(), uint16(i+1)), 0}
	}
	serve(t, l, 0)
	for _, how := range []spread{byChance, byFlow} {
		p, err := compile(rules, table, how)
		must(t, err)
		must(t, attachSteering(l.anchor().fd, p))
		for range 20 {
			if got := mustAsk(t, target(l, "127.0.0.1")); got != 0 {
				t.Fatalf("slot %d answered", got)
			}
		}
	}
}

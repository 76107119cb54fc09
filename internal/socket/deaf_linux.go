package socket

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// A deaf socket drops whatever would begin something new, without a word to
// the sender, who for tcp tries again after a second.
//
// For udp that is a packet filter. For tcp a filter needs CAP_NET_ADMIN since
// late kernels of the 6.x series, so it is the smallest TTL the socket takes
// (IP_MINTTL, ip(7); IPV6_MINHOPCOUNT): a packet below is dropped and counted
// in SK_MEMINFO_DROPS (tcp_v4_rcv, tcp_v6_rcv). Senders use 64 or 128, and one
// that uses 255 from the same wire is heard; it waits in the queue then. A
// connection that completes on a deaf socket inherits the limit, so only a
// socket that serves nobody may be deaf.
const (
	ttlDeaf  = 255
	ttlProof = 2 // drops what is sent with a TTL of 1, as nothing from outside is
	ttlAny   = 0
)

func (e endpoint) deafen(fd int) error {
	if e.stream {
		return e.setMinTTL(fd, ttlDeaf)
	}
	return attachFilter(fd, dropAll())
}

// hear undoes deafen.
func (e endpoint) hear(fd int) error {
	if e.stream {
		return e.setMinTTL(fd, ttlAny)
	}
	return detachFilter(fd)
}

// ttlOptions are the options that hold for packets of the endpoint's families:
// an IPv6 socket that takes IPv4 has one for each.
func (e endpoint) ttlOptions() (options [][2]int) {
	if e.family() == unix.AF_INET6 {
		options = append(options, [2]int{unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT})
	}
	if e.family() == unix.AF_INET || e.dual {
		options = append(options, [2]int{unix.IPPROTO_IP, unix.IP_MINTTL})
	}
	return options
}

func (e endpoint) setMinTTL(fd, ttl int) error {
	for _, o := range e.ttlOptions() {
		if err := unix.SetsockoptInt(fd, o[0], o[1], ttl); err != nil {
			return fmt.Errorf("set smallest TTL: %w", err)
		}
	}
	return nil
}

// raiseMinTTL sets the limit to ttl where it was lower, and returns what
// restores it.
func (e endpoint) raiseMinTTL(fd, ttl int) (restore func() error, err error) {
	var undo [][3]int
	restore = func() error {
		for _, o := range undo {
			if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
				return fmt.Errorf("restore smallest TTL: %w", err)
			}
		}
		return nil
	}
	for _, o := range e.ttlOptions() {
		was, err := unix.GetsockoptInt(fd, o[0], o[1])
		if err == nil && was < ttl {
			undo = append(undo, [3]int{o[0], o[1], was})
			err = unix.SetsockoptInt(fd, o[0], o[1], ttl)
		}
		if err != nil {
			return restore, fmt.Errorf("raise smallest TTL: %w", err)
		}
	}
	return restore, nil
}

// whisper makes a client's packets ones that ttlProof drops.
func (e endpoint) whisper(fd int) error {
	level, option := unix.IPPROTO_IP, unix.IP_TTL
	if e.family() == unix.AF_INET6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	if err := unix.SetsockoptInt(fd, level, option, ttlProof-1); err != nil {
		return fmt.Errorf("set TTL: %w", err)
	}
	return nil
}

// undeafen is hear for a socket in a worker's hands: it undoes what the launcher does to
// sockets, deafness and the sign of a proof, and leaves what only a worker does.
func (e endpoint) undeafen(fd int) error {
	if !e.stream {
		if p := filter(fd); p == nil || !ownFilter(p) {
			return nil
		}
		return detachFilter(fd)
	}
	for _, o := range e.ttlOptions() {
		ttl, err := unix.GetsockoptInt(fd, o[0], o[1])
		if err == nil && (ttl == ttlDeaf || ttl == ttlProof) {
			err = unix.SetsockoptInt(fd, o[0], o[1], ttlAny)
		}
		if err != nil {
			return fmt.Errorf("reset smallest TTL: %w", err)
		}
	}
	return nil
}

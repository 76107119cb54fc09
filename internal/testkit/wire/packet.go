// Package wire is a network with distance, for tests: two network namespaces of
// the test's own, a tun device in each, and between them a wire in user space
// that delays every packet and loses the ones that a test names. Loopback hides
// what a launcher must survive, a handshake that is half done when steering
// changes; and not every kernel has netem.
//
// It keeps one invariant: what it made is gone when the test is, for the devices
// and namespaces live only as long as descriptors of the test's process. It
// never touches the namespace that the test was started in.
package wire

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// The addresses of the two ends, of the ranges reserved for documentation
// (RFC 5737, RFC 3849).
const (
	Server4 = "192.0.2.1"
	Client4 = "192.0.2.2"
	Server6 = "2001:db8::1"
	Client6 = "2001:db8::2"
)

// Kind is what a packet is to a TCP connection.
type Kind string

// The kinds. A handshake is SYN, SYNACK, FinalACK.
const (
	SYN      Kind = "syn"
	SYNACK   Kind = "syn-ack"
	FinalACK Kind = "final-ack" // without data, answering a SYN-ACK
	ACK      Kind = "ack"       // any other without data
	Data     Kind = "data"
	FIN      Kind = "fin" // with or without data
	RST      Kind = "rst"
	Other    Kind = "other" // not TCP, or too short to tell
)

// Packet is one that the wire has to carry.
type Packet struct {
	Kind       Kind
	FromServer bool
	Source     netip.AddrPort
	Target     netip.AddrPort
	Bytes      int // of the whole packet
	// Nth packet of its kind in its direction between these two ports, from 1:
	// 2 is the first repetition of a SYN.
	Nth int
}

// Options of a wire.
type Options struct {
	// Delay in each direction; 0 is 40 ms, a round trip of 80.
	Delay time.Duration
	// Drop tells of each packet whether it is lost; nil loses none. It is called
	// by one goroutine at a time.
	Drop func(Packet) bool
}

// Stats is what the wire has carried and lost, by kind.
type Stats struct {
	Forwarded, Dropped map[Kind]int
}

// Lose loses packets at random, by kind with a probability of 0 to 1. The same
// seed makes the same choices for the same packets in the same order.
func Lose(seed uint64, share map[Kind]float64) func(Packet) bool {
	random := rand.New(rand.NewPCG(seed, 0))
	return func(p Packet) bool { return random.Float64() < share[p.Kind] }
}

// flow is one direction of one pair of addresses and ports.
type flow struct{ source, target netip.AddrPort }

// reader tells the kinds of packets apart. It remembers each handshake, and the
// packets of each kind, until the ports are used for another.
type reader struct {
	mu      sync.Mutex
	begun   map[flow]uint32 // client's flow: the sequence number of its SYN
	answers map[flow]uint32 // client's flow: the acknowledgement that completes the handshake
	seen    map[flow]map[Kind]int
}

func newReader() *reader {
	return &reader{begun: map[flow]uint32{}, answers: map[flow]uint32{}, seen: map[flow]map[Kind]int{}}
}

const (
	flagFIN = 1
	flagSYN = 2
	flagRST = 4
	flagACK = 16
)

// read parses one IP packet (RFC 791, RFC 8200, RFC 9293).
func (r *reader) read(b []byte, fromServer bool) Packet {
	p := Packet{Kind: Other, FromServer: fromServer, Bytes: len(b)}
	source, target, tcp := split(b)
	if len(tcp) < 20 {
		return p
	}
	p.Source = netip.AddrPortFrom(source, binary.BigEndian.Uint16(tcp[0:]))
	p.Target = netip.AddrPortFrom(target, binary.BigEndian.Uint16(tcp[2:]))
	sequence, answer := binary.BigEndian.Uint32(tcp[4:]), binary.BigEndian.Uint32(tcp[8:])
	header, flags := int(tcp[12]>>4)*4, tcp[13]

	r.mu.Lock()
	defer r.mu.Unlock()
	there, back := flow{p.Source, p.Target}, flow{p.Target, p.Source}
	switch {
	case flags&flagRST != 0:
		p.Kind = RST
	case flags&(flagSYN|flagACK) == flagSYN:
		p.Kind = SYN
		if before, known := r.begun[there]; !known || before != sequence { // no repetition
			r.begun[there] = sequence
			delete(r.answers, there)
			delete(r.seen, there)
			delete(r.seen, back)
		}
	case flags&flagSYN != 0:
		p.Kind = SYNACK
		r.answers[back] = sequence + 1
	case flags&flagFIN != 0:
		p.Kind = FIN
	case len(tcp) > header:
		p.Kind = Data
	default:
		p.Kind = ACK
		if expected, known := r.answers[there]; known && expected == answer {
			p.Kind = FinalACK
		}
	}
	if r.seen[there] == nil {
		r.seen[there] = map[Kind]int{}
	}
	r.seen[there][p.Kind]++
	p.Nth = r.seen[there][p.Kind]
	return p
}

// split finds the addresses and the TCP segment; nil when there is none. A
// segment behind IPv6 extension headers is not found: the kernel sends none.
func split(b []byte) (source, target netip.Addr, tcp []byte) {
	const protocolTCP = 6
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && b[9] == protocolTCP:
		header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		if header < 20 || total < header || total > len(b) {
			return source, target, nil
		}
		return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[header:total]
	case len(b) >= 40 && b[0]>>4 == 6 && b[6] == protocolTCP:
		return netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[40:]
	}
	return source, target, nil
}

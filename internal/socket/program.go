package socket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/net/bpf"
)

// The steering program is classic BPF on a SO_REUSEPORT group: what it returns
// is the index of the socket that takes the packet; an index beyond the group
// falls to the kernel's own hash (net/core/sock_reuseport.c). It sees the
// packet from behind the transport header, so addresses and ports are read
// relative to the network header.
const (
	netOff    = 0xfff00000 // SKF_NET_OFF, linux/filter.h
	etherIPv4 = 0x0800     // what SKF_AD_PROTOCOL gives, linux/if_ether.h
	etherIPv6 = 0x86dd

	source4 = netOff + 12 // source address in the IPv4 header
	port4   = netOff + 20 // source port behind an IPv4 header without options
	source6 = netOff + 8  // source address in the IPv6 header, four words
	port6   = netOff + 40 // source port behind the fixed IPv6 header
)

// isolation sends what comes from one address and port to one index. The port
// alone would catch a stranger who happens to use it.
type isolation struct {
	from  netip.AddrPort
	index int
}

// share is Share with the slot replaced by its index in the group.
type share struct {
	index  int
	weight int
	side   int
}

// spread tells how several shares of one side are chosen among.
type spread int

const (
	byChance spread = iota // each connection anew
	byFlow                 // by source address and port, so that the datagrams of a flow stay together
)

// compile makes the program: the isolations first, in order, then the table.
func compile(rules []isolation, table []share, how spread) ([]bpf.RawInstruction, error) {
	if len(table) == 0 {
		return nil, errors.New("steering table is empty")
	}
	var p []bpf.Instruction
	for _, r := range rules {
		p = append(p, isolate(r)...)
	}
	choice, err := choose(table, how)
	if err != nil {
		return nil, err
	}
	return bpf.Assemble(append(p, choice...))
}

// isolate returns r.index when all of r matches, and falls off its end when not.
func isolate(r isolation) []bpf.Instruction {
	addr := r.from.Addr().Unmap()
	ether, source, port := uint32(etherIPv4), uint32(source4), uint32(port4)
	if addr.Is6() {
		ether, source, port = etherIPv6, source6, port6
	}
	type comparison struct {
		load bpf.Instruction
		want uint32
	}
	all := []comparison{{bpf.LoadExtension{Num: bpf.ExtProto}, ether}}
	raw := addr.AsSlice()
	for i := 0; i < len(raw); i += 4 {
		word := binary.BigEndian.Uint32(raw[i:])
		all = append(all, comparison{bpf.LoadAbsolute{Off: source + uint32(i), Size: 4}, word})
	}
	all = append(all, comparison{bpf.LoadAbsolute{Off: port, Size: 2}, uint32(r.from.Port())})

	var p []bpf.Instruction
	for i, c := range all {
		left := len(all) - i - 1 // comparisons still to come, two instructions each, then the return
		p = append(p, c.load, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: c.want, SkipTrue: uint8(2*left + 1)})
	}
	return append(p, bpf.RetConstant{Val: uint32(r.index)})
}

// choose returns one of the table's indexes: of the client's side, where there
// are two.
func choose(table []share, how spread) ([]bpf.Instruction, error) {
	var sides [2][]share
	var weights [2]uint64
	for _, s := range table {
		if s.weight < 1 || s.index < 0 || s.side < 0 || s.side >= len(sides) {
			return nil, fmt.Errorf("steering table: index %d with weight %d on side %d", s.index, s.weight, s.side)
		}
		sides[s.side] = append(sides[s.side], s)
		weights[s.side] += uint64(s.weight)
	}
	total := weights[0] + weights[1]
	if total > 1<<31 {
		return nil, fmt.Errorf("steering table: weights add up to %d", total)
	}
	if len(sides[0]) == 0 || len(sides[1]) == 0 {
		return among(table, uint32(total), how), nil
	}
	old := among(sides[0], uint32(weights[0]), how)
	newcomer := among(sides[1], uint32(weights[1]), how)
	p := append(hashClient(),
		// Not one conditional jump: it reaches over 255 instructions at most.
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: uint32(weights[1] << 32 / total), SkipFalse: 1},
		bpf.Jump{Skip: uint32(len(newcomer))})
	return append(append(p, newcomer...), old...), nil
}

// among returns one of the indexes by weight; total is the sum of the weights.
func among(table []share, total uint32, how spread) []bpf.Instruction {
	last := table[len(table)-1]
	if len(table) == 1 {
		return []bpf.Instruction{bpf.RetConstant{Val: uint32(last.index)}}
	}
	p := []bpf.Instruction{bpf.LoadExtension{Num: bpf.ExtRand}}
	if how == byFlow {
		p = hashFlow()
	}
	p = append(p, bpf.ALUOpConstant{Op: bpf.ALUOpMod, Val: total})
	reached := uint32(0)
	for _, s := range table[:len(table)-1] {
		reached += uint32(s.weight)
		p = append(p,
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: reached, SkipTrue: 1},
			bpf.RetConstant{Val: uint32(s.index)})
	}
	return append(p, bpf.RetConstant{Val: uint32(last.index)})
}

// hashClient leaves a number in the accumulator that depends on all of the
// client's address and on nothing else. Who compares it with a bound that grows
// keeps those that were below. What comes over IPv4 to an IPv6 socket has an IPv4
// header, and so the same number as on an IPv4 socket.
//
// The words are taken up one by one, then come the last steps of MurmurHash3
// (fmix32), after which each bit depends on all: a provider's customers may
// differ in the middle of their addresses alone.
func hashClient() []bpf.Instruction {
	v4 := []bpf.Instruction{bpf.LoadAbsolute{Off: source4, Size: 4}}
	v6 := []bpf.Instruction{bpf.LoadAbsolute{Off: source6, Size: 4}}
	for word := uint32(1); word < 4; word++ {
		v6 = append(v6, multiplyAndFold(0x9e3779b1, 15)...)
		v6 = append(v6,
			bpf.TAX{},
			bpf.LoadAbsolute{Off: source6 + 4*word, Size: 4},
			bpf.ALUOpX{Op: bpf.ALUOpXor})
	}
	p := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherIPv6, SkipTrue: uint8(len(v4) + 1)},
	}
	p = append(append(p, v4...), bpf.Jump{Skip: uint32(len(v6))})
	p = append(p, v6...)
	p = append(p, fold(16)...)
	p = append(p, multiplyAndFold(0x85ebca6b, 13)...)
	return append(p, multiplyAndFold(0xc2b2ae35, 16)...)
}

func multiplyAndFold(by, shift uint32) []bpf.Instruction {
	return append([]bpf.Instruction{bpf.ALUOpConstant{Op: bpf.ALUOpMul, Val: by}}, fold(shift)...)
}

// fold mixes the upper bits, which a multiplication leaves the best mixed, into
// the lower ones.
func fold(shift uint32) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.TAX{},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: shift},
		bpf.ALUOpX{Op: bpf.ALUOpXor},
	}
}

// hashFlow leaves a number in the accumulator that depends on the last word of
// the source address and on the source port. The multiplication is Knuth's
// (2^32 over the golden ratio); its upper half is the well mixed one.
func hashFlow() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherIPv6, SkipTrue: 4},
		bpf.LoadAbsolute{Off: source4, Size: 4},
		bpf.TAX{},
		bpf.LoadAbsolute{Off: port4, Size: 2},
		bpf.Jump{Skip: 3},
		bpf.LoadAbsolute{Off: source6 + 12, Size: 4},
		bpf.TAX{},
		bpf.LoadAbsolute{Off: port6, Size: 2},
		bpf.ALUOpX{Op: bpf.ALUOpAdd},
		bpf.ALUOpConstant{Op: bpf.ALUOpMul, Val: 2654435761},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 16},
	}
}

// The filters below are classic socket filters (SO_ATTACH_FILTER). They see the
// packet from its tcp or udp header on; the number returned is how much of the
// packet to keep, 0 drops it. A dropped packet counts in SK_MEMINFO_DROPS.
const wholePacket = 0xffffffff

// dropSYN drops what would begin a connection and lets all else pass, also on
// the accepted sockets, which inherit it and never see a pure SYN.
func dropSYN() []bpf.RawInstruction {
	const flags, syn, ack = 13, 0x02, 0x10 // RFC 9293, section 3.1
	return assemble(
		bpf.LoadAbsolute{Off: flags, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: syn | ack},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: syn, SkipFalse: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: wholePacket},
	)
}

// dropAll drops every packet; for udp.
func dropAll() []bpf.RawInstruction {
	return assemble(bpf.RetConstant{Val: 0})
}

// dropFrom drops what comes from one address and port.
func dropFrom(from netip.AddrPort) []bpf.RawInstruction {
	return assemble(append(isolate(isolation{from: from, index: 0}), bpf.RetConstant{Val: wholePacket})...)
}

// ownFilter tells whether a udp filter is one of those, whatever the address it drops from.
func ownFilter(p []bpf.RawInstruction) bool {
	if slices.Equal(p, dropAll()) {
		return true
	}
	return slices.ContainsFunc([]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, func(from netip.Addr) bool {
		return slices.EqualFunc(p, dropFrom(netip.AddrPortFrom(from, 0)), func(a, b bpf.RawInstruction) bool {
			if a.Op&0x07 == 0x05 { // BPF_JMP, whose constant is a part of the address
				a.K = b.K
			}
			return a == b
		})
	})
}

// assemble is for programs without variable parts, which cannot go wrong: an
// error here is a mistake in this file that any test would meet.
func assemble(p ...bpf.Instruction) []bpf.RawInstruction {
	raw, err := bpf.Assemble(p)
	if err != nil {
		panic(err)
	}
	return raw
}

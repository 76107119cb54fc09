package socket

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"
)

// packet is what the kernel would give a program, and the number it would draw.
type packet struct {
	from   netip.AddrPort
	random uint32
	flags  byte // of the tcp header
}

// run interprets a program as net/core/filter.c does, for the instructions the
// compiler uses; x/net/bpf's own machine knows no packet offsets below zero.
func run(t *testing.T, program []bpf.RawInstruction, p packet) uint32 {
	t.Helper()
	return interpret(t, disassemble(t, program), p)
}

func disassemble(t *testing.T, program []bpf.RawInstruction) []bpf.Instruction {
	t.Helper()
	code, ok := bpf.Disassemble(program)
	if !ok {
		t.Fatalf("not a program: %v", program)
	}
	return code
}

func interpret(t *testing.T, code []bpf.Instruction, p packet) uint32 {
	var a, x uint32
	for pc := 0; pc < len(code); pc++ {
		switch in := code[pc].(type) {
		case bpf.LoadExtension:
			a = extension(t, in.Num, p)
		case bpf.LoadAbsolute:
			a = load(t, in, p)
		case bpf.TAX:
			x = a
		case bpf.ALUOpConstant:
			a = alu(t, in.Op, a, in.Val)
		case bpf.ALUOpX:
			a = alu(t, in.Op, a, x)
		case bpf.Jump:
			pc += int(in.Skip)
		case bpf.JumpIf:
			if jumps(t, in.Cond, a, in.Val) {
				pc += int(in.SkipTrue)
			} else {
				pc += int(in.SkipFalse)
			}
		case bpf.RetConstant:
			return in.Val
		default:
			t.Fatalf("instruction %d: %v", pc, in)
		}
	}
	t.Fatal("fell off the end")
	return 0
}

func extension(t *testing.T, e bpf.Extension, p packet) uint32 {
	switch e {
	case bpf.ExtRand:
		return p.random
	case bpf.ExtProto:
		if p.from.Addr().Is4() {
			return 0x0800
		}
		return 0x86dd
	}
	t.Fatalf("extension %v", e)
	return 0
}

func load(t *testing.T, in bpf.LoadAbsolute, p packet) uint32 {
	var data [60]byte
	off := in.Off
	if off < netOff { // from the tcp header on
		data[13] = p.flags
	} else {
		off -= netOff
		src, port := 12, 20
		if p.from.Addr().Is6() {
			src, port = 8, 40
		}
		copy(data[src:], p.from.Addr().AsSlice())
		binary.BigEndian.PutUint16(data[port:], p.from.Port())
	}
	switch in.Size {
	case 1:
		return uint32(data[off])
	case 2:
		return uint32(binary.BigEndian.Uint16(data[off:]))
	case 4:
		return binary.BigEndian.Uint32(data[off:])
	}
	t.Fatalf("load of %d bytes", in.Size)
	return 0
}

func alu(t *testing.T, op bpf.ALUOp, a, b uint32) uint32 {
	switch op {
	case bpf.ALUOpAdd:
		return a + b
	case bpf.ALUOpMul:
		return a * b
	case bpf.ALUOpMod:
		return a % b
	case bpf.ALUOpAnd:
		return a & b
	case bpf.ALUOpShiftRight:
		return a >> b
	case bpf.ALUOpXor:
		return a ^ b
	}
	t.Fatalf("operation %v", op)
	return 0
}

func jumps(t *testing.T, cond bpf.JumpTest, a, b uint32) bool {
	switch cond {
	case bpf.JumpEqual:
		return a == b
	case bpf.JumpNotEqual:
		return a != b
	case bpf.JumpGreaterOrEqual:
		return a >= b
	case bpf.JumpLessThan:
		return a < b
	}
	t.Fatalf("condition %v", cond)
	return false
}

func from(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestProgramIsolatesBeforeItSteers(t *testing.T) {
	rules := []isolation{
		{from("127.0.0.1:4000"), 5},
		{from("[2001:db8:1:2:3:4:5:6]:4000"), 6},
		{from("127.0.0.1:4001"), 7},
	}
	p, err := compile(rules, []share{{index: 2, weight: 1}}, byChance)
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]uint32{
		"127.0.0.1:4000":               5,
		"127.0.0.1:4001":               7,
		"127.0.0.1:4002":               2,
		"127.0.0.2:4000":               2, // a stranger with the same port
		"[2001:db8:1:2:3:4:5:6]:4000":  6,
		"[2001:db8:1:2:3:4:5:6]:4001":  2,
		"[2001:db8:1:2:3:4:5:7]:4000":  2, // each word of the address counts
		"[2001:db8:1:2:3:5:5:6]:4000":  2,
		"[2001:db8:1:3:3:4:5:6]:4000":  2,
		"[2001:db9:1:2:3:4:5:6]:4000":  2,
		"[::ffff:7f00:1:0]:4000":       2,
		"[7f00:1:2:3:4:5:6:7]:4000":    2,
		"192.168.1.1:61000":            2,
		"[::1]:4000":                   2,
		"[2001:db8:1:2:3:4:5:6]:61000": 2,
	} {
		if got := run(t, p, packet{from: from(addr)}); got != want {
			t.Errorf("%s goes to %d, want %d", addr, got, want)
		}
	}
}

func TestProgramSteersByWeight(t *testing.T) {
	for _, table := range [][]share{
		{{index: 3, weight: 1}},
		{{index: 1, weight: 1}, {index: 4, weight: 1}},
		{{index: 1, weight: 95}, {index: 2, weight: 5}},
		{{index: 6, weight: 2}, {index: 0, weight: 3}, {index: 3, weight: 1}},
	} {
		p, err := compile(nil, table, byChance)
		if err != nil {
			t.Fatal(err)
		}
		total, got := 0, make(map[int]int)
		for _, s := range table {
			total += s.weight
		}
		for draw := range 10 * total {
			got[int(run(t, p, packet{from: from("10.0.0.1:1"), random: uint32(draw)}))]++
		}
		for _, s := range table {
			if got[s.index] != 10*s.weight {
				t.Errorf("%v: index %d drawn %d times of %d", table, s.index, got[s.index], 10*total)
			}
		}
	}
}

func TestProgramKeepsAFlowTogetherAndSpreadsFlows(t *testing.T) {
	p, err := compile(nil, []share{{index: 1, weight: 1}, {index: 2, weight: 1}, {index: 3, weight: 1}}, byFlow)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"192.0.2.7", "2001:db8::7"} {
		got := make(map[uint32]int)
		for port := range uint16(3000) {
			f := netip.AddrPortFrom(netip.MustParseAddr(addr), 30000+port)
			index := run(t, p, packet{from: f})
			if again := run(t, p, packet{from: f, random: 12345}); again != index {
				t.Fatalf("%s goes to %d, then to %d", f, index, again)
			}
			got[index]++
		}
		for index := uint32(1); index <= 3; index++ {
			if got[index] < 900 || got[index] > 1100 {
				t.Errorf("%s: %d of 3000 flows at index %d", addr, got[index], index)
			}
		}
	}
}

func TestProgramRefusesATableWithoutMeaning(t *testing.T) {
	for _, table := range [][]share{
		nil,
		{{index: 1, weight: 0}},
		{{index: -1, weight: 1}},
		{{index: 1, weight: 1 << 30}, {index: 2, weight: 1 << 31}},
		{{index: 1, weight: 1}, {index: 2, weight: 1, side: 2}},
		{{index: 1, weight: 1, side: -1}, {index: 2, weight: 1}},
	} {
		if p, err := compile(nil, table, byChance); err == nil {
			t.Errorf("%v became %v", table, p)
		}
	}
}

func TestFilters(t *testing.T) {
	const syn, ack, fin, psh = 0x02, 0x10, 0x01, 0x08
	for flags, kept := range map[byte]bool{syn: false, syn | 0xc0: false, syn | ack: true, ack: true, fin | ack: true, psh | ack: true, 0: true} {
		if got := run(t, dropSYN(), packet{from: from("10.0.0.1:1"), flags: flags}) != 0; got != kept {
			t.Errorf("dropSYN, flags %#x: kept is %t", flags, got)
		}
	}
	if run(t, dropAll(), packet{from: from("10.0.0.1:1")}) != 0 {
		t.Error("dropAll keeps")
	}
	filter := dropFrom(from("10.0.0.1:1"))
	for addr, kept := range map[string]bool{"10.0.0.1:1": false, "10.0.0.1:2": true, "10.0.0.2:1": true, "[::1]:1": true} {
		if got := run(t, filter, packet{from: from(addr)}) != 0; got != kept {
			t.Errorf("dropFrom, %s: kept is %t", addr, got)
		}
	}
}

package socket

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"
)

// populations are clients' addresses as they come: each is many of them, by number.
var populations = map[string]func(n uint32) netip.Addr{
	"v4 in a row":      func(n uint32) netip.Addr { return v4(10<<24 + n) },
	"v4 of loopback":   func(n uint32) netip.Addr { return v4(127<<24 + n) },
	"v4 routers":       func(n uint32) netip.Addr { return v4(n<<8 + 1) }, // the .1 of each network
	"v4 of 65536 nets": func(n uint32) netip.Addr { return v4(n << 16) },
	"v4 anywhere":      func(n uint32) netip.Addr { return v4(scatter(n)) },
	"v6 hosts":         func(n uint32) netip.Addr { return v6(0x20010db8, 1, 0, n) },
	"v6 interfaces":    func(n uint32) netip.Addr { return v6(0x20010db8, 1, scatter(n), scatter(^n)) },
	"v6 third word":    func(n uint32) netip.Addr { return v6(0x20010db8, 1, n, 1) },
	"v6 networks":      func(n uint32) netip.Addr { return v6(0x20010db8, n, 0, 1) },
	"v6 providers":     func(n uint32) netip.Addr { return v6(0x20000000+n, 0, 0, 1) },
}

func v4(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

func v6(words ...uint32) netip.Addr {
	var b [16]byte
	for i, w := range words {
		binary.BigEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b)
}

// scatter is a number that looks like chance, always the same for n.
func scatter(n uint32) uint32 { return rand.New(rand.NewPCG(uint64(n), 1)).Uint32() }

// sided is a table with side 0 at index 1 and side 1, of that weight out of 1000,
// at index 2.
func sided(t *testing.T, weight int) []bpf.Instruction {
	t.Helper()
	p, err := compile(nil, []share{{index: 1, weight: 1000 - weight}, {index: 2, weight: weight, side: 1}}, byChance)
	if err != nil {
		t.Fatal(err)
	}
	return disassemble(t, p)
}

// Whoever the clients are, side 1 has its part of them, and keeps those it has
// when the part grows.
func TestSideOneHasItsPartOfTheClientsAndKeepsThem(t *testing.T) {
	const clients = 4000
	for name, client := range populations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := make(map[uint32]bool)
			for _, weight := range []int{1, 10, 50, 100, 500, 990} { // per mille
				p, now := sided(t, weight), make(map[uint32]bool)
				for n := range uint32(clients) {
					if interpret(t, p, packet{from: netip.AddrPortFrom(client(n), 40000)}) == 2 {
						now[n] = true
					} else if before[n] {
						t.Fatalf("%s leaves side 1 when its part becomes %d per mille", client(n), weight)
					}
				}
				part := float64(weight) / 1000
				sigma := math.Sqrt(part * (1 - part) * clients)
				if off := math.Abs(float64(len(now)) - part*clients); off > 4.5*sigma {
					t.Errorf("%d of %d clients on side 1, want %d per mille", len(now), clients, weight)
				}
				before = now
			}
		})
	}
}

// A part as small as a 65536th is kept too.
func TestASmallSide(t *testing.T) {
	const clients = 1 << 18
	p, err := compile(nil, []share{{index: 1, weight: 1<<16 - 1}, {index: 2, weight: 1, side: 1}}, byChance)
	if err != nil {
		t.Fatal(err)
	}
	code, got := disassemble(t, p), 0
	for n := range uint32(clients) {
		if interpret(t, code, packet{from: netip.AddrPortFrom(v4(n*2654435761), 1)}) == 2 { // each address once
			got++
		}
	}
	if got < 1 || got > 13 { // 4, with a standard deviation of 2
		t.Errorf("%d of 2^18 clients on a side with a part of 1 in 2^16", got)
	}
}

func TestASideIsTheAddressesAlone(t *testing.T) {
	p := sided(t, 500)
	for name, client := range populations {
		for n := range uint32(200) {
			side := interpret(t, p, packet{from: netip.AddrPortFrom(client(n), 1024)})
			for port := range uint16(20) {
				again := packet{from: netip.AddrPortFrom(client(n), 1025+31*port), random: scatter(n)}
				if got := interpret(t, p, again); got != side {
					t.Fatalf("%s: %s goes to %d, then to %d", name, again.from, side, got)
				}
			}
		}
	}
}

// Each word of an IPv6 address can change the side.
func TestEachWordOfAnAddressCounts(t *testing.T) {
	p := sided(t, 500)
	for word := range 4 {
		sides := make(map[uint32]int)
		for n := range uint32(100) {
			words := []uint32{0x20010db8, 7, 7, 7}
			words[word] += n
			sides[interpret(t, p, packet{from: netip.AddrPortFrom(v6(words...), 1)})]++
		}
		if sides[1] < 25 || sides[2] < 25 {
			t.Errorf("word %d: %v", word, sides)
		}
	}
}

// On its side a client is given to the shares by chance and weight.
func TestTheSharesOfASide(t *testing.T) {
	table := []share{{1, 3, 0}, {4, 2, 1}, {2, 1, 0}, {5, 1, 1}, {6, 1, 1}} // 4 to 4
	for how, want := range map[spread]map[uint32]int{
		byChance: {1: 30, 2: 10, 4: 20, 5: 10, 6: 10}, // exact: 40 numbers are drawn
		byFlow:   nil,
	} {
		program, err := compile(nil, table, how)
		if err != nil {
			t.Fatal(err)
		}
		p := disassemble(t, program)
		for n := range uint32(50) {
			got := make(map[uint32]int)
			for draw := range uint32(40) {
				got[interpret(t, p, packet{from: netip.AddrPortFrom(v4(10<<24+n), 3000+uint16(draw)), random: draw})]++
			}
			zero, one := got[1]+got[2], got[4]+got[5]+got[6]
			if zero > 0 && one > 0 {
				t.Fatalf("client %d is on both sides: %v", n, got)
			}
			for index, times := range got {
				if want != nil && times != want[index] {
					t.Errorf("client %d came to %d %d times, want %d", n, index, times, want[index])
				}
			}
			if want == nil && len(got) < 2 {
				t.Errorf("all flows of client %d came to one share: %v", n, got)
			}
		}
	}
}

// Where all shares are on one side, chance decides, whichever side it is.
func TestOneSideAloneIsChance(t *testing.T) {
	for side := range 2 {
		p, err := compile(nil, []share{{1, 1, side}, {2, 1, side}}, byChance)
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[uint32]int)
		for draw := range uint32(10) {
			got[run(t, p, packet{from: from("10.0.0.1:1"), random: draw})]++
		}
		if got[1] != 5 || got[2] != 5 {
			t.Errorf("side %d: %v", side, got)
		}
	}
}

// Jumps reach over 255 instructions, and a program has 4096 at most
// (BPF_MAXINSNS): hundreds of workers, each with a probe under way, fit.
func TestAProgramForHundredsOfWorkers(t *testing.T) {
	const workers = 300
	for _, how := range []spread{byChance, byFlow} {
		for _, sides := range []int{1, 2} {
			var rules []isolation
			var table []share
			for i := range workers {
				table = append(table, share{index: i + 1, weight: 1, side: i % sides})
				if i < 150 {
					rules = append(rules, isolation{netip.AddrPortFrom(netip.IPv6Loopback(), uint16(5000+i)), workers + 1})
				}
			}
			p, err := compile(rules, table, how)
			if err != nil {
				t.Fatal(err)
			}
			if len(p) > 4096 {
				t.Errorf("%d instructions", len(p))
			}
			got, code := make(map[uint32]int), disassemble(t, p)
			for n := range uint32(20) {
				for draw := range uint32(workers) {
					got[interpret(t, code, packet{from: netip.AddrPortFrom(v4(n), uint16(draw*131+n)), random: draw})]++
				}
			}
			if got[workers+1] != 0 || how == byChance && len(got) != workers || len(got) < workers*9/10 {
				t.Errorf("%d of %d workers were reached", len(got), workers)
			}
			if to := run(t, p, packet{from: from("[::1]:5149")}); to != workers+1 {
				t.Errorf("the last probe goes to %d", to)
			}
		}
	}
}

package socket

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// abuses are what a worker can do to the slot it was given, through its own
// descriptor fd.
var abuses = []struct {
	name   string
	breaks bool // the slot's socket is lost
	do     func(t *testing.T, fd int)
}{
	{"shutdown", true, func(t *testing.T, fd int) { must(t, unix.Shutdown(fd, unix.SHUT_RDWR)) }},
	{"shutdown for reading", true, func(t *testing.T, fd int) { must(t, unix.Shutdown(fd, unix.SHUT_RD)) }},
	{"connect AF_UNSPEC", true, func(t *testing.T, fd int) { must(t, disconnect(fd)) }},
	{"shutdown and listen again", false, func(t *testing.T, fd int) {
		must(t, unix.Shutdown(fd, unix.SHUT_RDWR))
		must(t, unix.Listen(fd, 4096))
	}},
	{"leave for good and listen again", true, func(t *testing.T, fd int) {
		must(t, reusePort(fd, 0))
		must(t, unix.Shutdown(fd, unix.SHUT_RDWR))
	}},
	{"listen with a backlog of 1", false, func(t *testing.T, fd int) { must(t, unix.Listen(fd, 1)) }},
	{"clear SO_REUSEPORT", false, func(t *testing.T, fd int) { must(t, reusePort(fd, 0)) }},
	{"detach the program", false, func(t *testing.T, fd int) {
		must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0))
	}},
	{"attach another program", false, func(t *testing.T, fd int) {
		must(t, attachSteering(fd, assemble(bpf.RetConstant{Val: 2})))
	}},
	{"clear O_NONBLOCK", false, func(t *testing.T, fd int) { must(t, unix.SetNonblock(fd, false)) }},
	{"close", false, func(*testing.T, int) {}},
}

// Slot 1 of three is abused, while it serves and while it does not.
func TestAbuseOfASlotCostsOnlyThatSlot(t *testing.T) {
	for _, c := range loopbacks {
		for _, a := range abuses {
			for _, serving := range []int{0, 1} {
				t.Run(strings.Join([]string{c.name, a.name, []string{"standing by", "serving"}[serving]}, "/"), func(t *testing.T) {
					abuse(t, c.listen, c.client, a.do, a.breaks, serving)
				})
			}
		}
	}
}

func abuse(t *testing.T, listen, client string, do func(*testing.T, int), breaks bool, serving int) {
	l := steeredAt(t, listen, 3)
	serve(t, l, 0)
	serve(t, l, 2)
	must(t, l.Steer(to(serving)))
	before, err := l.FD(1)
	must(t, err)

	fd := duplicate(t, l, 1)
	do(t, fd)
	if breaks {
		within(t, time.Second, "the watch replaces slot 1", func() bool {
			select {
			case f := <-l.Findings():
				return f.Kind == Broken && f.Slot == 1
			default:
				return false
			}
		})
	} else {
		must(t, l.Maintain()) // as each second
	}
	must(t, unix.Close(fd))
	must(t, l.Maintain())

	if after, err := l.FD(1); err != nil || after != before {
		t.Errorf("slot 1 was descriptor %d and is %d: %v", before, after, err)
	}
	serve(t, l, 1) // the successor
	probe(t, l, 1)
	for _, slot := range []int{serving, 0, 1, 2} {
		must(t, l.Steer(to(slot)))
		for range 3 {
			if got := mustAsk(t, target(l, client)); got != slot {
				t.Errorf("steered to %d, slot %d answered", slot, got)
			}
		}
	}
	inOrder(t, l)
	state, err := tcpListening(before)
	if err != nil || state.backlog != 4096 {
		t.Errorf("slot 1's backlog is %d: %v", state.backlog, err)
	}
}

// inOrder checks what the listener believes against the kernel.
func inOrder(t *testing.T, l *steered) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	order, err := l.prove()
	must(t, err)
	must(t, l.attach())
	same := func(a, b *member) bool { return a == b || a.stranger() && b.stranger() }
	if !slices.EqualFunc(order, l.order, same) {
		t.Errorf("the kernel's order is %v, ours %v", indexes(order), indexes(l.order))
	}
	if l.guardsMissing() > 0 {
		t.Errorf("%d guards missing in %v", l.guardsMissing(), indexes(l.order))
	}
}

// indexes are the slots by index, -1 for a guard and -2 for a stranger.
func indexes(order []*member) (slots []int) {
	for _, m := range order {
		if m.stranger() {
			slots = append(slots, -2)
			continue
		}
		slots = append(slots, m.slot)
	}
	return slots
}

// All workers leave at once, so that the order in which the holes were filled
// was not seen.
func TestEverySlotBrokenAtOnce(t *testing.T) {
	l := steeredAt(t, ":0", 5)
	for slot := range 5 {
		fd := duplicate(t, l, slot)
		must(t, unix.Shutdown(fd, unix.SHUT_RDWR))
		must(t, unix.Close(fd))
	}
	broken := make(map[int]bool)
	for len(broken) < 5 {
		broken[finding(t, l, Broken).Slot] = true
	}
	for slot := range 5 {
		serve(t, l, slot)
		must(t, l.Steer(to(slot)))
		if got := mustAsk(t, target(l, "::1")); got != slot {
			t.Errorf("steered to %d, slot %d answered", slot, got)
		}
	}
	inOrder(t, l)
}

func TestAbuseIsReportedOnce(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 2)
	fd := duplicate(t, l, 1)
	defer unix.Close(fd)
	must(t, unix.Listen(fd, 7))
	must(t, reusePort(fd, 0))
	for range 3 {
		must(t, l.Maintain())
	}
	var got []string
	for _, kind := range []FindingKind{Reasserted, Adjusted} {
		f := finding(t, l, kind)
		if f.Slot != 1 || f.Listener != l.Name() {
			t.Errorf("%+v", f)
		}
		got = append(got, f.Detail)
	}
	want := []string{"SO_REUSEPORT had been cleared", "the backlog had been set to 7, and is 4096 again"}
	if slices.Compare(got, want) != 0 {
		t.Errorf("%q", got)
	}
	select {
	case f := <-l.Findings():
		t.Errorf("another finding: %+v", f)
	default:
	}
}

func TestTrafficDoesNotWakeTheWatch(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 2)
	w := serve(t, l, 0)
	woken := make(chan struct{}, 100)
	other, err := newWatch(func() { woken <- struct{}{} })
	must(t, err)
	defer other.close()
	for slot := range 2 {
		fd := duplicate(t, l, slot)
		defer unix.Close(fd)
		must(t, other.add(fd))
	}
	for range 200 {
		mustAsk(t, target(l, "127.0.0.1"))
	}
	if w.accepted() != 200 {
		t.Fatalf("%d accepted", w.accepted())
	}
	fd := duplicate(t, l, 1)
	defer unix.Close(fd)
	must(t, unix.Shutdown(fd, unix.SHUT_RDWR))
	<-woken
	finding(t, l, Broken)
	if n := len(woken); n != 0 {
		t.Errorf("woken %d times more than by the one hang-up", n)
	}
}

package socket

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// dial must succeed.
func dial(t *testing.T, l Listener, slot int) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	c, err := l.Dial(ctx, slot, nil)
	must(t, err)
	must(t, c.SetDeadline(time.Now().Add(deadline)))
	return c
}

func tryDial(t *testing.T, l Listener, slot int, owner func(uint64) bool) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	c, err := l.Dial(ctx, slot, owner)
	if err == nil {
		c.Close()
	}
	return err
}

// parrot serves a slot: to each line it answers with the slot's number and the
// line. It counts by first word.
type parrot struct {
	slot int
	ln   net.Listener
	done sync.WaitGroup
	mu   sync.Mutex
	said map[string]int
}

func parrotOn(t *testing.T, l Listener, slot int) *parrot {
	t.Helper()
	p := &parrot{slot: slot, ln: accepting(t, l, slot), said: make(map[string]int)}
	p.done.Go(func() { // ends when ln is closed
		for {
			c, err := p.ln.Accept()
			if err != nil {
				return
			}
			p.done.Go(func() { p.answer(c) }) // ends when the client closes, or is too slow
		}
	})
	t.Cleanup(func() { p.ln.Close(); p.done.Wait() })
	return p
}

func (p *parrot) answer(c net.Conn) {
	defer c.Close()
	if c.SetDeadline(time.Now().Add(deadline)) != nil {
		return
	}
	for lines := bufio.NewScanner(c); lines.Scan(); {
		word, _, _ := strings.Cut(lines.Text(), " ")
		p.mu.Lock()
		p.said[word]++
		p.mu.Unlock()
		fmt.Fprintf(c, "%d %s\n", p.slot, lines.Text())
	}
}

func (p *parrot) heard(word string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said[word]
}

// talk says a line and returns the slot that answered.
func talk(c net.Conn, line string) (slot int, err error) {
	if _, err := fmt.Fprintln(c, line); err != nil {
		return -1, err
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return -1, err
	}
	if _, err := fmt.Sscanf(answer, "%d "+line, &slot); err != nil {
		return -1, fmt.Errorf("%q: %w", answer, err)
	}
	return slot, nil
}

package socket

import (
	"context"
	"sync"
)

// On a shared socket one connection after the other may always go to the same
// worker: with EPOLLEXCLUSIVE, as in nginx, the kernel wakes the first in its list
// that is idle (ep_poll_callback in fs/eventpoll.c), and on a quiet machine the old
// generation is, each time. Another comes to accept only while that one is busy. So
// where single connections were in vain, several are made at once.
const (
	singles   = 4 // tries of one connection
	maxVolley = 8
)

// volleySize is how many connections to make at once after so many tries.
func volleySize(tries int) int {
	n := 1
	for ; tries >= singles && n < maxVolley; tries-- {
		n *= 2
	}
	return n
}

// volley calls try n times at once and returns when all have. It is nil when one
// of them was, which ends the context of the others; else it is the error of one.
func volley(ctx context.Context, n int, try func(ctx context.Context) error) error {
	if n == 1 {
		return try(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, n)
	var tries sync.WaitGroup
	for range n {
		tries.Go(func() { // ends with its try
			err := try(ctx)
			if err == nil {
				cancel()
			}
			errs <- err
		})
	}
	tries.Wait()
	close(errs)
	last := error(nil)
	for err := range errs {
		if err == nil {
			return nil
		}
		last = err
	}
	return last
}

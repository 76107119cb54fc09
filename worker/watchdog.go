package worker

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

// watched is how often the launcher wants to hear of this process; 0: not at all.
var watched = sync.OnceValues(func() (time.Duration, error) {
	usec, given := os.LookupEnv("WATCHDOG_USEC")
	pid, mine := os.LookupEnv("WATCHDOG_PID")
	for _, name := range []string{"WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(name) // fails for names that no variable can have
	}
	if !given || mine && pid != strconv.Itoa(os.Getpid()) || manager() == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || n <= 0 || n > int64(maxInterval/time.Microsecond) {
		return 0, fmt.Errorf("watchdog: WATCHDOG_USEC is %q, not a number of microseconds", usec)
	}
	return time.Duration(n) * time.Microsecond, nil
})

// maxInterval is beyond what anybody waits for, and within what a Duration holds.
const maxInterval = 100 * 365 * 24 * time.Hour

// Watchdog tells the launcher that the process is alive and well (WATCHDOG=1), at once
// and at half the interval that WATCHDOG_USEC asks for, as long as check returns nil,
// until ctx ends. With a nil check it says so as long as it runs, which shows that the
// process is scheduled and no more. It returns nil at once where nobody watches: without
// WATCHDOG_USEC or NOTIFY_SOCKET, or when WATCHDOG_PID is another process.
//
// An error of check, or a check that does not return, keeps the message back. What comes
// of it is the launcher's affair, and when the interval is over: a check that
// passes again before that has cost nothing. It should do what a request does (take the
// locks, ask the database) and leave out what no restart would mend.
//
// ctx is that of the process rather than one whose end begins a drain, which may take
// longer than the interval. A message that cannot be sent is no error: the launcher may
// be there again for the next one.
func Watchdog(ctx context.Context, check func() error) error {
	interval, err := watched()
	if err != nil || interval == 0 {
		return err
	}
	beat(ctx, interval/2, check)
	return nil
}

func beat(ctx context.Context, every time.Duration, check func() error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for ctx.Err() == nil {
		if check == nil || check() == nil {
			_ = Notify("WATCHDOG=1") // documented
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

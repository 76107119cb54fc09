package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func init() {
	// Says which check it is; the third and fourth fail, the sixth ends it.
	roles["watchdog"] = func() {
		ctx, stop := context.WithCancel(context.Background())
		checks, begin := 0, time.Now()
		err := Watchdog(ctx, func() error {
			checks++
			if err := Status(fmt.Sprint("check ", checks)); err != nil {
				fmt.Println(err)
			}
			if checks == 6 {
				stop()
			}
			if checks == 3 || checks == 4 {
				return errors.New("not well")
			}
			return nil
		})
		fmt.Println("ended:", err)
		// Five times half a second; were it the whole interval, it would be five seconds.
		if took := time.Since(begin); took < 2500*time.Millisecond || took >= 5*time.Second {
			fmt.Println("it took", took)
		}
		out, err := exec.Command("sh", "-c", "echo for a child: $WATCHDOG_USEC $WATCHDOG_PID").Output()
		fmt.Print(string(out))
		if err != nil {
			fmt.Println(err)
		}
	}
	roles["watchdog-without-check"] = func() {
		ctx, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		fmt.Println("ended:", Watchdog(ctx, nil))
	}
}

func TestTheWatchdogHearsOfAProcessWhoseCheckPasses(t *testing.T) {
	manager := fmt.Sprintf("@baton-worker-watchdog-%d", os.Getpid())
	c := mailbox(t, manager)
	p := process(t, "watchdog", "NOTIFY_SOCKET="+manager, "WATCHDOG_USEC=1000000")
	for _, want := range []string{
		"STATUS=check 1", "WATCHDOG=1", "STATUS=check 2", "WATCHDOG=1", "STATUS=check 3", "STATUS=check 4",
		"STATUS=check 5", "WATCHDOG=1", "STATUS=check 6", "WATCHDOG=1",
	} {
		if got := next(t, c); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got, want := p.said(), "ended: <nil>\nfor a child:\n"; got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
}

func TestWithoutACheckTheWatchdogHearsOfTheProcessItself(t *testing.T) {
	manager := fmt.Sprintf("@baton-worker-watchdog-%d", os.Getpid())
	c := mailbox(t, manager)
	// The shell that becomes the process has its pid, as baton's shim does.
	p := process(t, "watchdog-without-check", "NOTIFY_SOCKET="+manager, "WATCHDOG_USEC=20000", "WATCHDOG_PID=mine")
	for range 5 {
		if got := next(t, c); got != "WATCHDOG=1" {
			t.Errorf("got %q", got)
		}
	}
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait() // killed
}

func TestWhoIsNotWatchedDoesNotWait(t *testing.T) {
	manager := fmt.Sprintf("@baton-worker-watchdog-%d", os.Getpid())
	mailbox(t, manager)
	for name, c := range map[string]struct {
		env  []string
		want string
	}{
		"no interval":     {[]string{"NOTIFY_SOCKET=" + manager}, "<nil>"},
		"nobody there":    {[]string{"WATCHDOG_USEC=20000"}, "<nil>"},
		"another process": {[]string{"NOTIFY_SOCKET=" + manager, "WATCHDOG_USEC=20000", "WATCHDOG_PID=1"}, "<nil>"},
		"nonsense": {[]string{"NOTIFY_SOCKET=" + manager, "WATCHDOG_USEC=soon"},
			`watchdog: WATCHDOG_USEC is "soon", not a number of microseconds`},
		"zero": {[]string{"NOTIFY_SOCKET=" + manager, "WATCHDOG_USEC=0"},
			`watchdog: WATCHDOG_USEC is "0", not a number of microseconds`},
		"for ever": {[]string{"NOTIFY_SOCKET=" + manager, "WATCHDOG_USEC=9223372036854775807"},
			`watchdog: WATCHDOG_USEC is "9223372036854775807", not a number of microseconds`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := process(t, "watchdog-without-check", c.env...).said(); got != "ended: "+c.want+"\n" {
				t.Errorf("it says %q, want %s", got, c.want)
			}
		})
	}
}

// With a clock of its own, that nothing on this machine delays. A check that hangs
// for a while is called again at the next beat, and not once for each that it missed.
func TestTheBeatIsSteadyAndWaitsForTheCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		ctx, stop := context.WithTimeout(t.Context(), 10500*time.Millisecond)
		defer stop()
		var at []time.Duration
		beat(ctx, time.Second, func() error {
			at = append(at, time.Since(begin))
			if len(at) == 4 {
				<-time.After(4500 * time.Millisecond) // the check hangs
			}
			return nil
		})
		var want []time.Duration
		for _, s := range []float64{0, 1, 2, 3, 7.5, 8, 9, 10} {
			want = append(want, time.Duration(s*float64(time.Second)))
		}
		if !slices.Equal(at, want) || time.Since(begin) != 10500*time.Millisecond {
			t.Errorf("checked at %v, want %v; ended after %v", at, want, time.Since(begin))
		}
	})
}

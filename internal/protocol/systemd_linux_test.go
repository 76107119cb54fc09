package protocol

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watchdogChild does what sd_watchdog_enabled(3) asks of a service, and of its
// children: to be heard of when both variables are meant for this very process.
func watchdogChild() {
	usec, err := strconv.Atoi(os.Getenv("WATCHDOG_USEC"))
	if err != nil || os.Getenv("WATCHDOG_PID") != strconv.Itoa(os.Getpid()) {
		fmt.Println("not watched")
		return
	}
	fmt.Println("watched every", time.Duration(usec)*time.Microsecond)
	child := exec.Command("/proc/self/exe")
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	if err := child.Run(); err != nil {
		fmt.Println(err)
	}
	for _, text := range []string{"WATCHDOG=1", "WATCHDOG=1\nWATCHDOG_USEC=90000000", "WATCHDOG=trigger"} {
		if err := send(os.Getenv("NOTIFY_SOCKET"), text); err != nil {
			fmt.Println(err)
		}
	}
	_ = unix.Pause() // until it is killed: a sender that is gone cannot be recognised
}

func TestAWatchedWorkerKnowsAndIsHeardOf(t *testing.T) {
	w := watched(t, Settings{}, nil, 1500*time.Millisecond)
	w.start([]string{childVariable + "=watchdog"}, self(t))
	w.says("watched every 1.5s")
	w.says("not watched") // its child, which inherited the variables
	for _, want := range []Message{
		{Watchdog: true}, {Watchdog: true, WatchdogInterval: 90 * time.Second}, {Trigger: true},
	} {
		want.PID = w.proc.PID()
		if m := w.box.next(t); m != want {
			t.Errorf("%+v, want %+v", m, want)
		}
	}
}

// What watches the launcher itself is not the worker's either.
func TestAWorkerThatIsNotWatchedFindsNoWatchdog(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "1000000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	w := crewed(t, Settings{}, nil, []string{childVariable + "=watchdog"}, self(t))
	w.says("not watched")
	if slices.ContainsFunc(w.link.Env(), func(kv string) bool { return strings.HasPrefix(kv, "WATCHDOG_") }) {
		t.Errorf("%q", w.link.Env())
	}
}

func TestTheIntervalIsNeverSaidAsNone(t *testing.T) {
	for interval, want := range map[time.Duration]string{
		0: "[]", -1: "[]", 1: "[WATCHDOG_USEC=1 WATCHDOG_PID=self]", time.Minute: "[WATCHDOG_USEC=60000000 WATCHDOG_PID=self]",
	} {
		if got := fmt.Sprint(watchdog(interval)); got != want {
			t.Errorf("%v: %s, want %s", interval, got, want)
		}
	}
}

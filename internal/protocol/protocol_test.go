package protocol

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestScrubRemovesWhatWasMeantForTheLauncher(t *testing.T) {
	keep := []string{
		"PATH=/bin", "LISTEN_ADDR=:80", "LISTEN_PORT=80", "GUNICORN_CMD_ARGS=--preload", "NGINX_VERSION=1",
		"NOTIFY_SOCKETS=x", "MYLISTEN_FDS=1", "NODE_ENV=production", "EINHORN", "=odd", "",
	}
	remove := []string{
		"NOTIFY_SOCKET=/run/systemd/notify", "LISTEN_FDS=1", "LISTEN_PID=1", "LISTEN_FDNAMES=a", "LISTEN_PIDFDID=7",
		"LISTEN_FDS_FIRST_FD=3", "WATCHDOG_USEC=1", "WATCHDOG_PID=1", "FDSTORE=5", "MAINPID=1",
		"TABLEFLIP_HAS_PARENT_7DIU3=yes", "NGINX=3;4;", "UNICORN_FD=3", "GUNICORN_FD=3", "GUNICORN_PID=1",
		"ECDYSIS_RUST_UPGRADE=yes", "OXY_NOTIFY_SOCKET=4", "SERVER_STARTER_PORT=", "SERVER_STARTER_GENERATION=1",
		"EINHORN_FD_0=3", "EINHORN_MASTER_PID=1", "PUMA_INHERIT_0=3:tcp://0.0.0.0:1", "NODE_CHANNEL_FD=3", "LISTEN_FDS",
	}
	env := slices.Concat(keep[:3], remove, keep[3:])
	before := slices.Clone(env)
	if diff := cmp.Diff(keep, Scrub(env)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(before, env); diff != "" {
		t.Errorf("the argument was changed: %s", diff)
	}
}

func TestSystemdNamesEveryDescriptor(t *testing.T) {
	if got := Systemd(nil); got != nil {
		t.Errorf("without sockets: %q", got)
	}
	long := strings.Repeat("x", 300)
	got := Systemd([]Socket{{Name: "web"}, {Name: ""}, {Name: "a:b\nc\x7fé"}, {Name: long}})
	want := []string{
		"LISTEN_FDS=4", "LISTEN_FDNAMES=web:unknown:a_b_c___:" + long[:255], "LISTEN_PID=self",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMessages(t *testing.T) {
	for text, want := range map[string]Message{
		"":                                     {},
		"READY=1":                              {Ready: true},
		"READY=1\n":                            {Ready: true},
		"READY=0":                              {},
		"READY":                                {},
		" READY=1":                             {},
		"ready=1":                              {},
		"STATUS=up\nREADY=1\nMAINPID=77":       {Ready: true, Status: "up"},
		"STOPPING=1":                           {Stopping: true},
		"STATUS=a\nSTATUS=b=c":                 {Status: "b=c"},
		"STATUS=\x1b[31mred\x07\tx\u202ey":     {Status: "[31mred xy"},
		"STATUS=bad\xffutf":                    {Status: "bad\ufffdutf"},
		"STATUS=" + strings.Repeat("é", 200):   {Status: strings.Repeat("é", maxStatus/2)},
		"EXTEND_TIMEOUT_USEC=1500000":          {ExtendTimeout: 1500 * time.Millisecond},
		"EXTEND_TIMEOUT_USEC=-1":               {},
		"EXTEND_TIMEOUT_USEC=soon":             {},
		"EXTEND_TIMEOUT_USEC=9223372036854775": {ExtendTimeout: 9223372036854775 * time.Microsecond},
		"EXTEND_TIMEOUT_USEC=9223372036854776": {ExtendTimeout: math.MaxInt64},
		"EXTEND_TIMEOUT_USEC=18446744073709551615": {ExtendTimeout: math.MaxInt64},
		"EXTEND_TIMEOUT_USEC=18446744073709551616": {},
		"WATCHDOG=1":                         {Watchdog: true},
		"WATCHDOG=trigger":                   {Trigger: true},
		"WATCHDOG=Trigger":                   {},
		"WATCHDOG=0":                         {},
		"WATCHDOG_USEC=20000000\nWATCHDOG=1": {Watchdog: true, WatchdogInterval: 20 * time.Second},
		"WATCHDOG_USEC=0":                    {WatchdogInterval: -1},
		"WATCHDOG_USEC=5\nWATCHDOG_USEC=":    {WatchdogInterval: 5 * time.Microsecond},
		"WATCHDOG_USEC=18446744073709551615": {WatchdogInterval: math.MaxInt64},
		"WATCHDOG_USEC=-5":                   {},
		"BARRIER=1":                          {},
		"READY=1\nREADY=0":                   {Ready: true},
		"RELOADING=1\x00\nX=\n":              {},
	} {
		got, fdstore := parse(text)
		if got != want || fdstore {
			t.Errorf("%q: %+v %v, want %+v", text, got, fdstore, want)
		}
		if got.said() != (want != Message{}) {
			t.Errorf("%q: said is %v", text, got.said())
		}
	}
	if m, fdstore := parse("FDSTORE=1\nFDNAME=x"); !fdstore || m.said() {
		t.Errorf("FDSTORE: %+v %v", m, fdstore)
	}
}

// FuzzMessage: no datagram makes the parser fall, or gets anything through that
// would do harm where it is shown.
func FuzzMessage(f *testing.F) {
	for _, s := range []string{"READY=1\nSTATUS=ok", "STATUS=\x1b]0;x\a", "EXTEND_TIMEOUT_USEC=99999999999999999999", "WATCHDOG=trigger", "WATCHDOG=1\nWATCHDOG_USEC=0",
		"WATCHDOG_USEC=18446744073709551615", "=\n==\n\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, _ := parse(text)
		if len(m.Status) > maxStatus || !utf8.ValidString(m.Status) {
			t.Errorf("status %q", m.Status)
		}
		if strings.ContainsFunc(m.Status, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }) {
			t.Errorf("control characters in status %q", m.Status)
		}
		if m.ExtendTimeout < 0 {
			t.Errorf("extend by %v", m.ExtendTimeout)
		}
		if m.WatchdogInterval < -1 {
			t.Errorf("heard of every %v", m.WatchdogInterval)
		}
	})
}

package protocol

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestANodeProgramListensOnItsSlot(t *testing.T) {
	node := needsNode(t)
	web := listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, web)
	for i := range 2 {
		if err := unix.SetNonblock(web.FD, false); err != nil {
			t.Fatal(err)
		}
		p := s.start([]string{port(web.port(t)), "NODE_OPTIONS=--no-warnings"}, node, "testdata/node/web.js").ready()
		a := get(t, "tcp", web.Address, "/x")
		if a.PID != p.cmd.Process.Pid || a.Instance != string(rune('0'+i)) || a.ID != i+1 || a.Options != "--no-warnings" {
			t.Errorf("worker %d of pid %d: %+v", i, p.cmd.Process.Pid, a)
		}
		if flags, err := unix.FcntlInt(uintptr(web.FD), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
			t.Errorf("the slot is blocking: flags %o, %v", flags, err)
		}
		p.end()
	}
	if s.log.count("WARN") != 0 {
		t.Errorf("log: %s", s.log)
	}
}

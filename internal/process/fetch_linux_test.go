package process_test

import (
	"bufio"
	"net"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"baton/internal/process"
)

// A socket that only another process has any more is there again, and is the same.
func TestSocketsAreFetchedFromWhoHasThem(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "echo; exec sleep 1000")
	cmd.ExtraFiles = append(cmd.ExtraFiles, file)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone
		_ = cmd.Wait()         // it was killed
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_, _ = file.Close(), l.Close()

	holder := mark(t, cmd.Process.Pid)
	missing := uint64(1)
	fds, err := process.Fetch([]process.Mark{holder}, map[uint64]bool{st.Ino: true, missing: true})
	if err != nil || len(fds) != 1 {
		t.Fatalf("%v, %v", fds, err)
	}
	defer unix.Close(fds[st.Ino])
	if flags, err := unix.FcntlInt(uintptr(fds[st.Ino]), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %v: not close-on-exec", flags, err)
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, _, err := unix.Accept(fds[st.Ino])
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(accepted)

	other := holder
	other.Start++
	if fds, err := process.Fetch([]process.Mark{other, {PID: 1<<22 + 1}}, map[uint64]bool{st.Ino: true}); err != nil || len(fds) != 0 {
		t.Errorf("of others, and of nobody: %v, %v", fds, err)
	}
}

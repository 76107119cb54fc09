package worker

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"baton/internal/load"
)

// The variables are a process's own, so each of these tests is one: this binary
// again, in a role.
const roleVariable = "WORKER_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		roles[role]()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var roles = map[string]func(){
	"serve": func() {
		l, err := Listen("http", os.Getenv("WORKER_TEST_ADDRESS"))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if err := Serve(context.Background(), &http.Server{Handler: http.HandlerFunc(generation)}, l); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	},
	"say": func() {
		for _, err := range []error{Ready(), Status("two lines\nin one\n"), Stopping(), Notify("WATCHDOG=1\nSTATUS=x")} {
			if err != nil {
				fmt.Println(err)
			}
		}
		_, left := os.LookupEnv("NOTIFY_SOCKET")
		fmt.Println("NOTIFY_SOCKET is left:", left)
	},
	"ready": func() { fmt.Println(Ready()) },
	"names": func() {
		ls, err := Listeners()
		ps, err2 := PacketConns()
		if err = cmp.Or(err, err2); err != nil {
			fmt.Println(err)
			return
		}
		var lines []string
		for name, l := range ls {
			for i := range l {
				lines = append(lines, fmt.Sprintf("%s %d %s", name, i, l[i].Addr()))
			}
		}
		for name, p := range ps {
			lines = append(lines, fmt.Sprintf("%s packets %s", name, p[0].LocalAddr()))
		}
		slices.Sort(lines)
		fmt.Println(strings.Join(lines, "\n"))
	},
	"child": func() { // what a child of such a process has
		if _, err := Listeners(); err != nil {
			fmt.Println(err)
		}
		own, err := exec.Command("ls", "-l", fmt.Sprintf("/proc/%d/fd", os.Getpid())).CombinedOutput()
		fmt.Printf("its parent has %d sockets %v\n", strings.Count(string(own), "socket:"), err)
		out, err := exec.Command("sh", "-c", "env; ls -l /proc/self/fd").CombinedOutput()
		fmt.Printf("%s%v\n", out, err)
	},
	"listen": func() { fmt.Println(Listen("http", os.Getenv("WORKER_TEST_ADDRESS"))) },
}

func generation(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/slow" {
		<-time.After(50 * time.Millisecond) // the request takes this long
	}
	w.Header().Set(load.HeaderGeneration, os.Getenv("BATON_GENERATION"))
	w.Header().Set(load.HeaderPattern, "64")
	_, _ = w.Write(load.Pattern(0, 64)) // the client sees what is missing
}

// child is this binary in a role.
type child struct {
	*exec.Cmd
	out bytes.Buffer
}

// said waits for its end and returns all that it printed, a bad end included.
func (c *child) said() string {
	if err := c.Wait(); err != nil {
		return c.out.String() + err.Error()
	}
	return c.out.String()
}

// process starts a child with nothing inherited.
func process(t *testing.T, role string, env ...string) *child {
	t.Helper()
	return with(t, nil, role, env...)
}

// with starts a child that inherits files from descriptor 3 on. A shell becomes it, so
// that LISTEN_PID can be told before, and WATCHDOG_PID where it is "mine".
func with(t *testing.T, files []*os.File, role string, env ...string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{Cmd: exec.CommandContext(t.Context(), "sh", "-c",
		`[ "$WATCHDOG_PID" != mine ] || WATCHDOG_PID=$$; LISTEN_PID=${LISTEN_PID-$$} exec "$0"`, self)}
	c.Env = append(os.Environ(), roleVariable+"="+role, "GORACE=atexit_sleep_ms=10")
	if files != nil {
		c.Env = append(c.Env, fmt.Sprintf("LISTEN_FDS=%d", len(files)))
	}
	c.Env = append(c.Env, env...)
	c.ExtraFiles = files
	c.Stdout, c.Stderr = &c.out, &c.out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// files are sockets as a launcher passes them, and what else systemd may pass.
func files(t *testing.T) (all []*os.File, addresses []string) {
	t.Helper()
	add := func(s interface{ File() (*os.File, error) }, address net.Addr) {
		f, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		all, addresses = append(all, f), append(addresses, address.String())
	}
	tcp, again := listen(t).(*net.TCPListener), listen(t).(*net.TCPListener)
	udp, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	add(tcp, tcp.Addr())
	add(udp.(*net.UDPConn), udp.LocalAddr())
	add(again, again.Addr())
	stored, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stored.Close() })
	return append(all, stored), append(addresses, "")
}

func TestInheritedSocketsAreFoundByTheirNames(t *testing.T) {
	all, a := files(t)
	want := []string{"dns packets " + a[1], "http 0 " + a[0], "http 1 " + a[2]}
	if got := with(t, all, "names", "LISTEN_FDNAMES=http:dns:http:stored").said(); got != strings.Join(want, "\n")+"\n" {
		t.Errorf("got\n%swant\n%s", got, strings.Join(want, "\n"))
	}
	want = []string{"unknown 0 " + a[0], "unknown 1 " + a[2], "unknown packets " + a[1]}
	if got := with(t, all, "names").said(); got != strings.Join(want, "\n")+"\n" {
		t.Errorf("without names: got\n%swant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestNoChildProcessInheritsASocketOrAVariable(t *testing.T) {
	all, _ := files(t)
	got := with(t, all, "child", "LISTEN_FDNAMES=a:b:c:d", "LISTEN_PIDFDID=1", "NOTIFY_SOCKET=@nobody").said()
	for _, word := range []string{"LISTEN_", "socket:", " 6 -> /dev/null", "exit status"} {
		if strings.Contains(got, word) {
			t.Errorf("a child process has %q:\n%s", word, got)
		}
	}
	for _, word := range []string{"its parent has 3 sockets <nil>\n", "PATH=", " 2 -> "} {
		if !strings.Contains(got, word) {
			t.Errorf("nothing of %q:\n%s", word, got)
		}
	}
}

func TestSocketsOfAnotherProcessAreNotTakenAndTheErrorSaysWhose(t *testing.T) {
	all, a := files(t)
	if got := with(t, all, "names", "LISTEN_PID=1").said(); got != "\n" {
		t.Errorf("with LISTEN_PID of another: %q", got)
	}
	got := with(t, all, "listen", "LISTEN_PID=1", "WORKER_TEST_ADDRESS="+a[0]).said()
	if !strings.Contains(got, "address already in use") || !strings.Contains(got, "LISTEN_PID is 1, another process") {
		t.Errorf("Listen on what the launcher holds: %q", got)
	}
}

func TestWhatIsWrongWithTheVariablesIsAnError(t *testing.T) {
	all, _ := files(t)
	for _, c := range []struct{ env, want string }{
		{"LISTEN_FDS=many", `LISTEN_FDS "many": not a number of descriptors`},
		{"LISTEN_FDS=-1", `LISTEN_FDS "-1": not a number of descriptors`},
		{"LISTEN_FDS=20", "LISTEN_FDS: descriptor 20: getsockopt: bad file descriptor"},
		{"LISTEN_FDNAMES=one:two", `LISTEN_FDNAMES "one:two": not 4 names`},
	} {
		if got := with(t, all, "names", c.env).said(); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.env, got, c.want)
		}
	}
}

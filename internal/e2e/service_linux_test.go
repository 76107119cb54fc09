package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
	"baton/internal/testkit/boot"

	"golang.org/x/sys/unix"
)

// Here systemd runs the launcher, by the unit that startup writes.

const (
	webUnit = "baton-web.service"
	webDir  = "/srv/web"
	// behaviour is the file by which a test says what the next generation is like.
	behaviour = webDir + "/behaviour"
)

// service is web as a unit that runs; more is TOML.
type service struct {
	t *testing.T
}

func newService(t *testing.T, more ...string) service {
	t.Helper()
	if err := os.MkdirAll(webDir, 0o755); err != nil {
		t.Fatal(err)
	}
	testkit.Behave(t, behaviour)
	s := service{t}
	s.configure(append([]string{quick, listen("web", onBoot(8080).Address)}, more...)...)
	boot.Do(t, "baton", "start", "--config", webDir+"/baton.toml")
	boot.Do(t, "baton", "startup", "web")
	boot.Do(t, "baton", "stop", "web")
	boot.Do(t, "systemctl", "start", webUnit)
	served(t, onBoot(8080)) // at once: that is what active means
	return s
}

func (s service) configure(more ...string) {
	s.t.Helper()
	text := "name = \"web\"\n[command]\nexec = " + quoted(testkit.Target("@"+behaviour)) + "\n" + strings.Join(more, "\n") + "\n"
	write(s.t, webDir+"/baton.toml", text)
}

// property of the unit.
func (s service) property(name string) string {
	s.t.Helper()
	return asRoot.systemctl(s.t, "show", "--value", "--property="+name, webUnit)
}

// main is the launcher.
func (s service) main() int {
	s.t.Helper()
	pid, err := strconv.Atoi(s.property("MainPID"))
	if err != nil {
		s.t.Fatal(err)
	}
	return pid
}

// state waits for one of the unit's.
func (s service) state(want string) {
	s.t.Helper()
	testkit.Wait(s.t, func() bool { return s.property("ActiveState") == want }, "the unit to be "+want)
}

// succeeded waits until another launcher serves.
func (s service) succeeded(old int) {
	s.t.Helper()
	testkit.Wait(s.t, func() bool { pid := s.main(); return pid != 0 && pid != old }, "the next launcher")
	asRoot.comes(s.t, "web")
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// Ten reloads by systemd under load, one that fails, and one after it.
func TestASystemctlReloadIsASwapAndFailsWithIt(t *testing.T) {
	boot.Test(t, func(t *testing.T) {
		s := newService(t, listen("file", "unix:///run/web.sock"))
		launcher := s.main()
		if got := s.property("StatusText"); !strings.Contains(got, "serves") {
			t.Errorf("systemctl status says %q", got)
		}
		fresh := begun(t, load.Options{Targets: []load.Target{onBoot(8080), {Network: "unix", Address: "/run/web.sock"}}, Clients: 8})
		for range 10 {
			fresh.Mark()
			boot.Do(t, "systemctl", "reload", webUnit)
			fresh.Settle()
		}
		testkit.Behave(t, behaviour, "exit=7", "words=cannot open licence.key")
		if out, code := boot.Run(t, "systemctl", "reload", webUnit); code == 0 {
			t.Errorf("a reload that was rolled back succeeded: %s", out)
		}
		if got := s.property("ActiveState"); got != "active" || s.main() != launcher {
			t.Errorf("after it the unit is %s, its launcher %d; was %d", got, s.main(), launcher)
		}
		if out := boot.Do(t, "journalctl", "--no-pager", "--unit", webUnit); !strings.Contains(out, "cannot open licence.key") {
			t.Errorf("the journal does not say why:\n%s", out)
		}
		testkit.Behave(t, behaviour)
		boot.Do(t, "systemctl", "reload", webUnit)
		r := fresh.Stop()
		none(t, "fresh", r, 100)
		if len(r.ByGeneration) < 10 {
			t.Errorf("%d generations answered, want 12", len(r.ByGeneration))
		}
	})
}

// A launcher that is killed, crashes or is ended by a signal is followed by another, and
// what served is not killed with it. One that ended as it was asked to is not followed.
func TestALauncherThatIsKilledIsFollowedByAnother(t *testing.T) {
	boot.Test(t, func(t *testing.T) {
		s := newService(t)
		for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGABRT} { // a Go program exits with 2 by the latter
			launcher, worker := s.main(), workerOf(t, 8080)
			if err := syscall.Kill(launcher, sig); err != nil {
				t.Fatal(err)
			}
			testkit.Wait(t, func() bool { return s.property("SubState") == "auto-restart" || s.main() > launcher }, "systemd to notice")
			if s.property("SubState") == "auto-restart" && !alive(worker) {
				t.Errorf("%v of the launcher: its worker has ended as well", sig)
			}
			s.succeeded(launcher)
			served(t, onBoot(8080))
		}
		if out := boot.Do(t, "journalctl", "--no-pager", "--unit", webUnit); !strings.Contains(out, "left for the next launcher, after the result signal") ||
			!strings.Contains(out, "after the result exit-code") {
			t.Errorf("cleanup did not leave the workers:\n%s", out)
		}
		boot.Do(t, "baton", "stop", "web")
		s.state("inactive")
		if got := s.property("Result"); got != "success" {
			t.Errorf("after baton stop the result is %s", got)
		}
		write(t, webDir+"/baton.toml", "bogus = 1\n")
		if _, code := boot.Run(t, "systemctl", "start", webUnit); code == 0 {
			t.Error("a start with a wrong configuration succeeded")
		}
		s.state("failed")
	})
}

// A launcher that hangs is ended by its watchdog and followed by another; what serves
// goes on serving until then.
func TestALauncherThatHangsIsFollowedByAnother(t *testing.T) {
	boot.Test(t, func(t *testing.T) {
		s := newService(t)
		dropIn(t, "WatchdogSec=2", "RestartSec=3")
		boot.Do(t, "systemctl", "restart", webUnit)
		launcher, worker := s.main(), workerOf(t, 8080)
		if err := syscall.Kill(launcher, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		testkit.Wait(t, func() bool { return s.property("SubState") == "auto-restart" }, "the watchdog")
		if got := workerOf(t, 8080); got != worker {
			t.Errorf("worker %d answers, and not %d", got, worker)
		}
		s.succeeded(launcher)
		if out := boot.Do(t, "journalctl", "--no-pager", "--unit", webUnit); !strings.Contains(out, "Watchdog timeout") ||
			!strings.Contains(out, "left for the next launcher, after the result watchdog") || !strings.Contains(out, "goroutine ") {
			t.Errorf("the journal does not say what happened:\n%s", out)
		}
		launcher = s.main()
		before := s.property("NRestarts")
		// It is well for several of its watchdog's times.
		began := time.Now()
		testkit.Wait(t, func() bool { return time.Since(began) > 7*time.Second }, "the watchdog to have had its chances")
		if s.main() != launcher || s.property("NRestarts") != before {
			t.Error("a launcher that is well was ended by its watchdog")
		}
	})
}

// What does not come to serve is tried as often as it takes.
func TestAStartThatFailsIsTriedUntilItServes(t *testing.T) {
	boot.Test(t, func(t *testing.T) {
		s := newService(t)
		boot.Do(t, "systemctl", "stop", webUnit)
		dropIn(t, "RestartSec=100ms")
		testkit.Behave(t, behaviour, "exit=7")
		boot.Do(t, "systemctl", "start", "--no-block", webUnit)
		testkit.Wait(t, func() bool {
			n, err := strconv.Atoi(s.property("NRestarts"))
			return err == nil && n > 7 // five within ten seconds are systemd's own limit
		}, "one try after the other")
		if got := s.property("ActiveState"); got != "activating" {
			t.Errorf("what does not serve is %s", got)
		}
		testkit.Behave(t, behaviour)
		s.state("active")
		served(t, onBoot(8080))
	})
}

// A stop lets finish what is under way, and leaves nobody; also when it takes too long.
func TestAStopOfTheUnitDrainsAndLeavesNobody(t *testing.T) {
	boot.Test(t, func(t *testing.T) {
		s := newService(t)
		worker := workerOf(t, 8080)
		answer := make(chan error, 1)
		go func() { answer <- aSecond() }() // ends with its answer
		testkit.Wait(t, func() bool { return len(connected.FindAllString(contents(t, "/proc/net/tcp"), -1)) > 0 }, "a request under way")
		boot.Do(t, "systemctl", "stop", webUnit)
		if err := <-answer; err != nil {
			t.Errorf("what was under way: %v", err)
		}
		if alive(worker) || s.property("Result") != "success" {
			t.Errorf("after the stop the worker is alive: %v, and the result %s", alive(worker), s.property("Result"))
		}

		dropIn(t, "TimeoutStopSec=1")
		testkit.Behave(t, behaviour, "term=ignore")
		boot.Do(t, "systemctl", "start", webUnit)
		worker = workerOf(t, 8080)
		boot.Run(t, "systemctl", "stop", webUnit)
		if got := s.property("Result"); got != "timeout" || alive(worker) {
			t.Errorf("after a stop that took too long the worker is alive: %v, and the result %s", alive(worker), got)
		}
		if out := boot.Do(t, "journalctl", "--no-pager", "--unit", webUnit); !strings.Contains(out, fmt.Sprintf("web: ended what its launcher left: %d\n", worker)) {
			t.Errorf("cleanup did not say that it ended %d:\n%s", worker, out)
		}
	})
}

// connected is a line of an established connection to port 8080, in proc_pid_net(5).
var connected = regexp.MustCompile(`(?m)^ *\d+: \S+:1F90 \S+ 01 `)

// aSecond asks for what takes a second.
func aSecond() error {
	once := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := once.Get("http://" + onBoot(8080).Address + "/slow?delay=1s")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// dropIn lays lines over the unit's, as systemctl edit does.
func dropIn(t *testing.T, lines ...string) {
	t.Helper()
	dir := "/etc/systemd/system/" + webUnit + ".d"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/override.conf", []byte("[Service]\n"+strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	boot.Do(t, "systemctl", "daemon-reload")
}

// bounded: the bounding set of a process has a capability, by proc_pid_status(5).
func bounded(t *testing.T, status string, capability int) bool {
	t.Helper()
	_, after, _ := strings.Cut(status, "\nCapBnd:\t")
	set, err := strconv.ParseUint(strings.Fields(after)[0], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return set&(1<<capability) != 0
}

// What the unit keeps from an application, and what it does not: here one whose workers
// run as somebody else, in a directory that is otherwise read-only.
func TestTheUnitsSandboxLetsAServerWork(t *testing.T) {
	boot.Test(t, func(t *testing.T) {
		s := newService(t)
		worker := workerOf(t, 8080)
		status := contents(t, fmt.Sprintf("/proc/%d/status", worker))
		for _, want := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
			if !strings.Contains(status, want) {
				t.Errorf("no %q in\n%s", want, status)
			}
		}
		if bounded(t, status, unix.CAP_NET_ADMIN) || bounded(t, status, unix.CAP_SYS_ADMIN) || !bounded(t, status, unix.CAP_NET_BIND_SERVICE) {
			t.Errorf("capabilities:\n%s", status)
		}
		in := []string{"nsenter", "--mount", "--target", strconv.Itoa(worker), "--"}
		for path, want := range map[string]bool{webDir: true, "/tmp": true, "/var/lib": true, boot.JoeHome: true, "/etc": false} {
			_, code := boot.Run(t, append(in, "touch", path+"/written")...)
			if got := code == 0; got != want {
				t.Errorf("%s can be written: %v, want %v", path, got, want)
			}
		}
		for _, words := range [][]string{
			{"systemd-analyze", "verify", "--man=no", "/etc/systemd/system/" + webUnit},
			{"systemd-analyze", "security", "--no-pager", "--threshold=49", webUnit},
		} {
			if out, code := boot.Run(t, words...); code != 0 || strings.Contains(out, "/"+webUnit+":") {
				t.Errorf("%v: exit code %d\n%s", words, code, out)
			}
		}
		// What docs/boot.md says of the ways out.
		boot.Do(t, "mkdir", "/etc/app")
		dropIn(t, "NoNewPrivileges=no", "ReadWritePaths=/etc/app", "CapabilityBoundingSet=CAP_NET_ADMIN")
		boot.Do(t, "systemctl", "restart", webUnit)
		worker = workerOf(t, 8080)
		in[3] = strconv.Itoa(worker)
		boot.Do(t, append(in, "touch", "/etc/app/written")...)
		if status = contents(t, fmt.Sprintf("/proc/%d/status", worker)); !strings.Contains(status, "NoNewPrivs:\t0\n") || !bounded(t, status, unix.CAP_NET_ADMIN) {
			t.Errorf("the drop-in did not give back rights:\n%s", status)
		}
		// As somebody else: the launcher sees and ends them all the same.
		s.configure(quick, listen("web", onBoot(8080).Address), "[handoff]", "workers = 2")
		text := strings.Replace(contents(t, webDir+"/baton.toml"), "[command]", "[command]\nuser = \"joe\"", 1)
		write(t, webDir+"/baton.toml", strings.Replace(text, quick+"\n", "", 1))
		boot.Do(t, "systemctl", "reload", webUnit)
		worker = workerOf(t, 8080)
		modes(t, 0o555, boot.JoeUID, fmt.Sprintf("/proc/%d", worker))
		if out := boot.Do(t, "baton", "status", "web"); !strings.Contains(out, "2/2") {
			t.Errorf("status says\n%s", out)
		}
		boot.Do(t, "systemctl", "stop", webUnit)
		if alive(worker) {
			t.Error("the worker is left")
		}
	})
}

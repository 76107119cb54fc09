package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"baton/internal/load"
	"baton/internal/testkit"
	"baton/internal/testkit/boot"
)

// Here machines are booted, and what ran comes back, or does not.

// onBoot is the address of what is started there: the network is the machine's own.
func onBoot(port int) load.Target {
	return load.Target{Network: "tcp", Address: fmt.Sprintf("127.0.0.1:%d", port)}
}

// begins is the command line that starts the target in the background.
func begins(name string, port int, behaviours ...string) []string {
	words := []string{"baton", "start", "--name", name, "--listen", onBoot(port).Address, "--drain-delay", "100ms", "--"}
	return append(words, testkit.Target(behaviours...)...)
}

// runner is boot.Run, or boot.RunAs for what joe does.
type runner func(testing.TB, ...string) (string, int)

// systemctl is what it says, in one word.
func (r runner) systemctl(t testing.TB, words ...string) string {
	t.Helper()
	out, _ := r(t, append([]string{"systemctl"}, words...)...)
	return strings.TrimSpace(out)
}

// comes waits until an application serves that nobody has started.
func (r runner) comes(t testing.TB, name string) {
	t.Helper()
	testkit.Wait(t, func() bool {
		out, code := r(t, "baton", "status", name)
		return code == 0 && strings.Contains(out, "serving")
	}, name+" to serve")
}

var (
	asRoot runner = boot.Run
	asJoe  runner = boot.RunAs
)

// workerOf is the process that answers at a port.
func workerOf(t *testing.T, port int) int {
	t.Helper()
	once := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := once.Get("http://" + onBoot(port).Address + "/pid")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var pid int
	if _, err := fmt.Fscan(resp.Body, &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// modes holds files against a mode and an owner.
func modes(t *testing.T, want os.FileMode, owner int, paths ...string) {
	t.Helper()
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; info.Mode().Perm() != want || int(uid) != owner {
			t.Errorf("%s: %v of user %d, want %v of %d", path, info.Mode(), uid, want, owner)
		}
	}
}

func absent(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", path, err)
		}
	}
}

// In one step what runs is saved and gets a unit, and is there after a boot; what was
// stopped is not. After unstartup nothing is, until resurrect.
func TestWhatRootRunsComesBackAtBoot(t *testing.T) {
	const unit, env = "/etc/systemd/system/baton-web.service", "/var/lib/baton/apps/web.env"
	boot.Test(t, func(t *testing.T) {
		t.Setenv("TOKEN", `s"e$cret`)
		for i, name := range []string{"web", "api", "off"} {
			boot.Do(t, begins(name, 8080+i)...)
		}
		boot.Do(t, "baton", "stop", "off")
		if out := boot.Do(t, "baton", "startup"); !strings.Contains(out, "web: "+unit+"\n") || strings.Contains(out, "off") {
			t.Errorf("startup said:\n%s", out)
		}
		if text := contents(t, unit); strings.Contains(text, "cret") || !strings.Contains(contents(t, env), "TOKEN=") {
			t.Errorf("the secret is in the unit, or not in its file:\n%s", text)
		}
		modes(t, 0o644, 0, unit)
		modes(t, 0o600, 0, env)
		if got := asRoot.systemctl(t, "is-enabled", "baton-web", "baton-api"); got != "enabled\nenabled" {
			t.Errorf("they are %s", got)
		}
		absent(t, "/etc/systemd/system/baton-off.service")
		handedOver(t)
	}, func(t *testing.T) {
		asRoot.comes(t, "web")
		asRoot.comes(t, "api")
		if env := contents(t, fmt.Sprintf("/proc/%d/environ", workerOf(t, 8080))); !strings.Contains(env, "TOKEN=s\"e$cret\x00") {
			t.Errorf("its environment is %q", env)
		}
		if out := boot.Do(t, "baton", "show", "web"); !strings.Contains(out, "started by systemd: baton-web.service") {
			t.Errorf("show says\n%s", out)
		}
		boot.Do(t, "baton", "unstartup")
		absent(t, unit, env)
		if got := asRoot.systemctl(t, "is-enabled", "baton-web"); strings.HasPrefix(got, "enabled") {
			t.Errorf("after unstartup it is %s", got)
		}
		served(t, onBoot(8080)) // what runs goes on
	}, func(t *testing.T) {
		if out := boot.Do(t, "baton", "status"); strings.Contains(out, "serving") {
			t.Errorf("something runs:\n%s", out)
		}
		boot.Do(t, "baton", "resurrect")
		asRoot.comes(t, "web")
		asRoot.comes(t, "api")
		if out, code := boot.Run(t, "baton", "status", "off"); code != 4 || !strings.Contains(out, "stopped") {
			t.Errorf("what was not saved came back:\n%s", out)
		}
	})
}

// handedOver: systemd runs it from now on, without a boot.
func handedOver(t *testing.T) {
	t.Helper()
	boot.Do(t, "baton", "stop", "web")
	boot.Do(t, "systemctl", "start", "baton-web")
	served(t, onBoot(8080))
	if out, code := boot.Run(t, "baton", "restart", "web"); code != 1 || !strings.Contains(out, "systemctl restart baton-web") {
		t.Errorf("restart of what systemd runs: exit code %d\n%s", code, out)
	}
	if out := boot.Do(t, "systemctl", "status", "--no-pager", "--lines=0", "baton-web"); !strings.Contains(out, "baton run") {
		t.Errorf("systemd runs\n%s", out)
	}
	boot.Do(t, "baton", "delete", "api")
	absent(t, "/etc/systemd/system/baton-api.service")
	boot.Do(t, begins("api", 8081)...)
	boot.Do(t, "baton", "startup", "api")
}

// A user's own manager starts what is that user's, at boot when the user lingers.
func TestWhatAUserRunsComesBackAtBoot(t *testing.T) {
	const unit, env = boot.JoeHome + "/.config/systemd/user/baton-web.service", boot.JoeHome + "/.local/state/baton/apps/web.env"
	boot.Test(t, func(t *testing.T) {
		boot.Do(t, "systemctl", "start", "user@1000")
		boot.DoAs(t, begins("web", 8080)...)
		if out := boot.DoAs(t, "baton", "startup"); !strings.Contains(out, "loginctl enable-linger joe") {
			t.Errorf("startup does not say that they start at login alone:\n%s", out)
		}
		modes(t, 0o644, boot.JoeUID, unit)
		modes(t, 0o600, boot.JoeUID, env)
		if got := asJoe.systemctl(t, "--user", "is-enabled", "baton-web"); got != "enabled" {
			t.Errorf("it is %s", got)
		}
		boot.Do(t, "loginctl", "enable-linger", boot.Joe)
		if out := boot.DoAs(t, "baton", "startup"); strings.Contains(out, "linger") {
			t.Errorf("startup wants what is done:\n%s", out)
		}
	}, func(t *testing.T) {
		asJoe.comes(t, "web")
		served(t, onBoot(8080))
		boot.DoAs(t, "systemctl", "--user", "reload", "baton-web")
		if g := served(t, onBoot(8080)); g != "2" {
			t.Errorf("generation %s serves after a reload", g)
		}
		boot.DoAs(t, "baton", "unstartup", "web")
		absent(t, unit, env)
	}, func(t *testing.T) {
		testkit.Wait(t, func() bool { return asJoe.systemctl(t, "--user", "is-system-running") == "running" }, "joe's manager")
		if out := boot.DoAs(t, "baton", "status"); strings.Contains(out, "serving") {
			t.Errorf("something runs:\n%s", out)
		}
		boot.DoAs(t, "baton", "resurrect")
		asJoe.comes(t, "web")
	})
}

// Root writes the units of a user's applications: they run as that user, and that user's
// commands find them.
func TestRootStartsAUsersApplicationsAtBoot(t *testing.T) {
	const unit, env = "/etc/systemd/system/baton-web.service", "/var/lib/baton/users/joe/apps/web.env"
	boot.Test(t, func(t *testing.T) {
		boot.Do(t, "loginctl", "enable-linger", boot.Joe)
		testkit.Wait(t, func() bool { return asJoe.systemctl(t, "--user", "is-system-running") == "running" }, "joe's manager")
		boot.DoAs(t, begins("web", 8080)...)
		if out, code := boot.RunAs(t, "baton", "startup", "--system"); code != 1 || !strings.Contains(out, "sudo baton startup --user joe") {
			t.Errorf("startup --system by joe: exit code %d\n%s", code, out)
		}
		boot.DoAs(t, "baton", "save")
		boot.Do(t, "baton", "startup", "--user", boot.Joe)
		modes(t, 0o600, 0, env)
	}, func(t *testing.T) {
		asJoe.comes(t, "web")
		report := boot.DoAs(t, "baton", "status", "web", "--json")
		if main := `"pid": ` + asRoot.systemctl(t, "show", "--property=MainPID", "--value", "baton-web"); !strings.Contains(report, main) {
			t.Errorf("no %s in\n%s", main, report)
		}
		modes(t, 0o555, boot.JoeUID, fmt.Sprintf("/proc/%d", workerOf(t, 8080)))
		boot.Do(t, "systemctl", "reload", "baton-web")
		boot.Do(t, "baton", "unstartup", "--user", boot.Joe)
		absent(t, unit, env)
	})
}

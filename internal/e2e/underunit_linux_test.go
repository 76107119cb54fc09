package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"baton/internal/testkit"
	"baton/internal/testkit/boot"
)

// Servers that nobody wrote for baton, or for a sandbox, work under the unit: one that
// compiles while it runs, and one whose workers change their user, among them.
func TestServersOfManyKindsWorkUnderTheUnit(t *testing.T) {
	for _, program := range []string{"node", "nginx", "gunicorn", "python3"} {
		if _, err := exec.LookPath(program); err != nil {
			testkit.Lack(t, "needs %s: %v", program, err)
		}
	}
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	m := boot.Machine{Binds: map[string]string{"/srv/examples": examples, "/srv/server.cjs": testdata(t, "server.cjs")}}
	m.Test(t, func(t *testing.T) {
		boot.Do(t, "mkdir", "-p", "/srv/app", "/var/lib/nginx", "/var/log/nginx")
		for _, kind := range []string{"nginx", "gunicorn", "python-asyncio"} {
			boot.Do(t, "cp", "-r", "/srv/examples/"+kind, "/srv/app/")
			underUnit(t, kind, fmt.Sprintf("/srv/app/%s/baton.toml", kind))
		}
		write(t, "/srv/app/node.toml", "name = \"node\"\n[command]\nexec = [\"node\", \"/srv/server.cjs\"]\n"+
			"env = { PORT = '{{port \"web\"}}', KEEP = \"1\" }\n"+listen("web", onBoot(8080).Address))
		underUnit(t, "node", "/srv/app/node.toml")
	})
}

// underUnit has systemd start, reload and stop an application.
func underUnit(t *testing.T, name, config string) {
	t.Helper()
	boot.Do(t, "baton", "start", "--config", config)
	boot.Do(t, "baton", "startup", name)
	boot.Do(t, "baton", "stop", "--now", name)
	unit := "baton-" + name
	for _, verb := range []string{"start", "reload"} {
		boot.Do(t, "systemctl", verb, unit)
		if out, code := boot.Run(t, "baton", "status", "--ready", name); code != 0 {
			t.Errorf("%s after %s: exit code %d\n%s", name, verb, code, out)
		}
		boot.Do(t, "python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/', timeout=10).read()")
	}
	if left := boot.Do(t, "systemctl", "show", "--value", "--property=Result", unit); left != "success\n" {
		t.Errorf("%s: %s", name, left)
	}
	boot.Do(t, "systemctl", "stop", unit)
	if got := asRoot.systemctl(t, "is-active", unit); got != "inactive" {
		t.Errorf("%s: after its stop the unit is %s", name, got)
	}
}

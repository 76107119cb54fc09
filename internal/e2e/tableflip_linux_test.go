package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"baton/internal/load"
	"baton/internal/testkit"
)

// buildFlip makes the program on tableflip. It is one of its own: a test binary that
// carried tableflip would be taken for such a program itself.
var buildFlip = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(testkit.Target()[0]), "flip")
	out, err := exec.Command("go", "build", "-o", path, "./testdata/flip").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build flip: %w\n%s", err, out)
	}
	return path, nil
})

func flip(t testing.TB) string {
	t.Helper()
	path, err := buildFlip()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A program built on tableflip unlinks the path of its unix socket when it
// stops, although its successor serves there: the path comes back.
func TestATableflipProgramDoesNotTakeThePathWithIt(t *testing.T) {
	testkit.Leaks(t)
	path := shortDir(t) + "/web.sock"
	a := run(t, config(t, []string{flip(t), "own", path}, quick, `protocols = ["systemd"]`, listen("web", "unix://"+path)))
	for range 5 {
		from := a.Next()
		a.HUP()
		a.serving(a.last + 1)
		a.gone(a.last - 1)
		a.WaitLogFrom(from, "unlinked on unix://"+path)
		if g := served(t, a.address("web")); g != fmt.Sprint(a.last) {
			t.Errorf("served by generation %s, want %d", g, a.last)
		}
	}
	a.Stop()
}

// A program built on tableflip gets its listener from its Upgrader, however it
// spells the address, is ready when it says so, and learns when the old one is gone.
func TestATableflipProgramFindsItsListener(t *testing.T) {
	program := flip(t)
	dir := shortDir(t)
	for i, c := range []struct{ listen, network, address string }{
		{"127.0.0.1:%d", "tcp", "127.0.0.1:%d"},
		{":%d", "tcp", "0.0.0.0:%d"},
		{":%d", "tcp", ":%d"},
		{"unix://" + dir + "/s%d", "unix", dir + "/s%d"},
	} {
		t.Run(fmt.Sprintf("%s-%d", c.network, i), func(t *testing.T) {
			testkit.Leaks(t)
			n := testkit.FreePort(t)
			at, as := fmt.Sprintf(c.listen, n), fmt.Sprintf(c.address, n)
			a := run(t, config(t, []string{program, "listen", c.network, as}, quick, listen("web", at)))
			a.WaitLog("ready.*tableflip")
			a.WaitLog("the parent is gone for 1")
			fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 4})
			for range 5 {
				a.swap()
				a.gone(a.last - 1)
				a.WaitLog(fmt.Sprintf("the parent is gone for %d", a.last))
			}
			r := fresh.Stop()
			if c.network == "unix" {
				// The program removes the path when it ends, and no signal to it does not end
				// it so: who connects before the path is back, about a millisecond later, is
				// refused.
				r.Lost -= r.Reasons[load.Refused]
			}
			none(t, "tableflip", r, 100)
			a.Stop()
		})
	}
}

// Of a program built on tableflip it is said that it is one, and by what it is known.
func TestCheckFindsTableflip(t *testing.T) {
	path := config(t, []string{flip(t), "listen", "tcp", "127.0.0.1:0"}, listen("web", "127.0.0.1:0"))
	out, err := exec.Command(testkit.Binary(t), "check", "--config", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if want := "protocol  tableflip (it carries TABLEFLIP_HAS_PARENT"; !strings.Contains(string(out), want) {
		t.Errorf("check says %s, without %q", out, want)
	}
}

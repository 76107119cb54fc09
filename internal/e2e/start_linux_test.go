package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"baton/internal/event"
	"baton/internal/testkit"

	"golang.org/x/sys/unix"
)

// Of several starts of one name at once one wins, and what is known of the application
// afterwards is what that one said: the next start is of what ran.
func TestOfSeveralStartsAtOnceTheOneThatServesIsRemembered(t *testing.T) {
	testkit.Leaks(t)
	h := newHouse(t)
	for round := range 3 {
		codes, words := make([]int, 4), make([]string, 4)
		var wg sync.WaitGroup
		for i := range codes {
			words[i] = "words=" + strconv.Itoa(round) + "_" + strconv.Itoa(i)
			wg.Go(func() { codes[i], _, _ = h.baton(wordsOf("web", words[i])...) })
		}
		wg.Wait()
		won := slices.Index(codes, 0)
		rest := slices.DeleteFunc(slices.Clone(codes), func(code int) bool { return code == 6 })
		if won < 0 || len(rest) != 1 {
			t.Fatalf("exit codes %v; want one 0, the others 6", codes)
		}
		known := contents(t, filepath.Join(h.home, "lib", "apps", "web.json"))
		if !strings.Contains(known, words[won]) {
			t.Fatalf("%s serves, and what is known is %s", words[won], known)
		}
		h.must("delete", "web", "--now")
		if _, err := os.Stat(filepath.Join(h.home, "lib", "apps", "web.json")); err == nil {
			t.Fatal("deleted, and known")
		}
	}
}

func wordsOf(name, behaviour string) []string { return words(name, testkit.Target(behaviour)...) }

// A restart stops nothing that a full disk would then keep from being started.
func TestARestartOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	testkit.Leaks(t)
	h := newHouse(t)
	disk := filepath.Join(h.home, "lib")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	h.must(words("web", testkit.Target()...)...)
	before := h.report("web")
	fill(t, filepath.Join(disk, "fill"))
	code, out, errs := h.baton("restart", "web")
	if after := h.report("web"); code != 0 || after.PID == 0 || after.PID == before.PID || after.State != "serving" {
		t.Fatalf("exit code %d, %s%s\n%+v", code, out, errs, after)
	}
	if !strings.Contains(errs, "web: its start is not noted: ") {
		t.Errorf("it says %q", errs)
	}
	// Of what is not known it is an error, and nothing is left running.
	if code, _, errs := h.baton(words("new", testkit.Target()...)...); code != 1 || !strings.Contains(errs, "no space left on device") {
		t.Errorf("a new one: exit code %d, %s", code, errs)
	}
	if r := h.report("web"); r.State != "serving" {
		t.Errorf("%+v", r)
	}
	h.must("delete", "all", "--now")
}

// fill takes all the room that there is.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() // full, which it is to be
	for size := 64 << 10; size > 0; {
		if n, err := f.Write(make([]byte, size)); err != nil && n == 0 {
			size /= 2
		}
	}
}

// The launcher's own file has what the store cannot have, and no more.
func TestTheLaunchersOwnFileDoesNotRepeatTheStore(t *testing.T) {
	testkit.Leaks(t)
	h := newHouse(t)
	h.must(words("web", testkit.Target()...)...)
	h.must("reload", "web")
	if text := h.log("web"); text != "" {
		t.Errorf("it has %s", text)
	}
	if out := h.must("logs", "web"); !strings.Contains(out, "generation 2 serves") {
		t.Errorf("the store has %s", out)
	}
}

// Where workers write to it themselves it has their lines, and a bound.
func TestTheLaunchersOwnFileIsBounded(t *testing.T) {
	testkit.Leaks(t)
	h := newHouse(t)
	file := config(t, append([]string{"sh", "-c", "yes " + strings.Repeat("y", 200) + ` | head -c 80000000; exec "$@"`, "sh"}, testkit.Target()...), quick,
		"[logs]\noutput = \"pass\"", listen("web", "127.0.0.1:0"))
	h.must("start", "--config", file, "--name", "web")
	path := filepath.Join(h.home, "log", "web", "baton.log")
	size := func(path string) int64 {
		info, err := os.Stat(path)
		if err != nil {
			return -1
		}
		return info.Size()
	}
	testkit.Wait(t, func() bool { return size(path) < 64<<20 && size(path+".1") > 0 }, "it to be cut")
	if n := size(path + ".1"); n > 64<<20 {
		t.Errorf("%d bytes are kept", n)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(path+".1", &st); err != nil || st.Mode&0o777 != 0o600 {
		t.Errorf("%v, mode %o", err, st.Mode)
	}
}

// QUIT ends everything now: hooks too.
func TestQuitWaitsForNoHook(t *testing.T) {
	testkit.Leaks(t)
	began := filepath.Join(t.TempDir(), "began")
	l := testkit.NewBaton(t, "run", "--config", config(t, testkit.Target(), quick,
		"[hooks]\nswap = [\"sh\", \"-c\", \": >"+began+"; sleep 600\"]\ntimeout = \"5m\"", listen("web", "127.0.0.1:0")), "--log", "json")
	l.Start()
	testkit.Wait(t, func() bool { _, err := os.Stat(began); return err == nil }, "the hook")
	from := l.Next()
	l.Signal(syscall.SIGTERM) // which waits for it
	l.WaitEvent(from, "stopped")
	l.Signal(syscall.SIGQUIT)
	l.WaitLog("baton ends now")
	l.Wait()
}

// Workers that were started just before the launcher was killed are known as those it left.
// What is started next takes them over, and follows each with one that it hears.
func TestALauncherIsKilledInTheMiddleOfASwap(t *testing.T) {
	testkit.Leaks(t)
	h := newHouse(t)
	h.must(append([]string{"start", "--name", "web", "--listen", "127.0.0.1:0", "--workers", "3", "--bake", "1h", "--"}, testkit.Target()...)...)
	for range 3 {
		h.must("reload", "web")
		r := h.report("web")
		kill(t, r.PID)
		testkit.Wait(t, func() bool { return ended(t, r.PID) }, "the launcher to be gone")
		left := h.report("web").Survivors
		for _, g := range r.Generations {
			for _, w := range g.Workers {
				if w.State == "ready" && !slices.Contains(left, w.PID) { // who drains may have ended since
					t.Errorf("pid %d of generation %d is not among %v", w.PID, g.Number, left)
				}
			}
		}
		h.must("start", "web")
		now := h.report("web")
		if now.Resumed != r.Resumed+1 || now.State != event.StateServing {
			t.Errorf("after the start %+v", now)
		}
		for _, g := range r.Generations {
			for _, w := range g.Workers {
				if g.Phase == "serving" {
					testkit.Wait(t, func() bool { return ended(t, w.PID) }, "those who served to be followed")
				}
			}
		}
	}
}

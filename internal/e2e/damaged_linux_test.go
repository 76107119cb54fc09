package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"baton/internal/event"
	estate "baton/internal/keep"
	"baton/internal/load"
	"baton/internal/testkit"
)

// next starts another launcher in the place of one that has ended.
func (a *app) next(path string) *app {
	a.t.Helper()
	next := testkit.NewBaton(a.t, "run", "--config", path, "--log", "json")
	next.Cmd.Env = append(next.Cmd.Env, "BATON_HOME="+a.Home)
	next.Home = a.Home
	next.Start()
	return &app{Launcher: next, t: a.t, last: a.last}
}

// edited changes the state in a file, as JSON.
func edited(t *testing.T, path string, edit func(state map[string]any)) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := estate.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	var state map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&state); err != nil {
		t.Fatal(err)
	}
	edit(state)
	if text, err = json.Marshal(state); err == nil {
		err = estate.NewRecord(f).Write(text)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever has become of the file that a killed launcher left, the next one serves, with
// as many workers as there should be, and none of the others is left.
func TestAStateThatIsDamaged(t *testing.T) {
	testkit.Together(t)
	damages := map[string]func(t *testing.T, path string){
		"cut short": func(t *testing.T, path string) { truncate(t, path, 100) },
		"empty":     func(t *testing.T, path string) { truncate(t, path, 0) },
		"gone":      func(t *testing.T, path string) { remove(t, path) },
		"a directory": func(t *testing.T, path string) {
			remove(t, path)
			mkdir(t, path)
		},
		"a bit": func(t *testing.T, path string) {
			b := []byte(contents(t, path))
			for i := 24; i < len(b); i += 1000 {
				b[i] ^= 4
			}
			write(t, path, string(b))
		},
		"huge": func(t *testing.T, path string) {
			if err := os.Truncate(path, 1<<40); err != nil {
				t.Fatal(err)
			}
		},
		"another name": func(t *testing.T, path string) {
			edited(t, path, func(s map[string]any) { s["name"] = "other" })
		},
		"another boot": func(t *testing.T, path string) {
			edited(t, path, func(s map[string]any) { s["boot"] = "other" })
		},
		"pids of others": func(t *testing.T, path string) {
			edited(t, path, func(s map[string]any) {
				for _, w := range s["engine"].(map[string]any)["workers"].([]any) {
					w.(map[string]any)["process"].(map[string]any)["pid"] = os.Getpid()
				}
			})
		},
		"no generations": func(t *testing.T, path string) {
			edited(t, path, func(s map[string]any) { s["engine"].(map[string]any)["generations"] = nil })
		},
		"no listeners": func(t *testing.T, path string) {
			edited(t, path, func(s map[string]any) { s["engine"].(map[string]any)["listeners"] = nil })
		},
		"no rules": func(t *testing.T, path string) {
			edited(t, path, func(s map[string]any) { delete(s["engine"].(map[string]any), "rules") })
		},
		"no workers": func(t *testing.T, path string) {
			edited(t, path, func(s map[string]any) { s["engine"].(map[string]any)["workers"] = nil })
		},
		"no releases' programs": func(t *testing.T, path string) {
			edited(t, path, func(s map[string]any) {
				for _, r := range s["engine"].(map[string]any)["releases"].([]any) {
					delete(r.(map[string]any), "program")
					delete(r.(map[string]any), "plan")
				}
			})
		},
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			testkit.Leaks(t)
			path := config(t, testkit.Target(), quick+"\nworkers = 2", listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))))
			a := run(t, path)
			before := pids(a.report())
			kill(t, a.PID())
			a.Wait()
			files, err := filepath.Glob(filepath.Join(a.Home, "run", "*.state"))
			if err != nil || len(files) != 1 {
				t.Fatal(files, err)
			}
			damage(t, files[0])
			a = a.next(path)
			testkit.Wait(t, func() bool {
				select {
				case <-a.Exited():
					t.Fatal("it has ended")
				default:
				}
				code, out, _ := a.baton("status", "test", "--json")
				var r event.Report
				if code != 0 || json.Unmarshal([]byte(out), &r) != nil {
					return false
				}
				now := pids(&r)
				return r.State == event.StateServing && len(now) == 2 && !slices.ContainsFunc(now, func(pid int) bool { return pid == 0 || slices.Contains(before, pid) })
			}, "it to serve with workers of its own")
			testkit.Wait(t, func() bool { return ended(t, before[0]) && ended(t, before[1]) }, "the workers before to end")
			r := begun(t, load.Options{Targets: []load.Target{{Network: "tcp", Address: addressIn(t, path)}}, Clients: 2})
			more(t, r, 20)
			none(t, "fresh", r.Stop(), 20)
			if left, err := filepath.Glob(filepath.Join(a.Home, "run", "*.state")); err != nil || len(left) != 1 {
				t.Error(left, err)
			}
			a.Stop()
		})
	}
}

func addressIn(t *testing.T, path string) string {
	t.Helper()
	_, rest, _ := bytes.Cut([]byte(contents(t, path)), []byte(`address = "`))
	address, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(address)
}

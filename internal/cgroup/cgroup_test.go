package cgroup

import (
	"reflect"
	"testing"
	"time"
)

// The forms are those of Documentation/admin-guide/cgroup-v2.rst, with names that
// a later kernel may add.
func TestFilesAreReadAsTheKernelWritesThem(t *testing.T) {
	events := "low 0\nhigh 3\nmax 912\noom 4\noom_kill 2\noom_group_kill 0\nsomething_new 7 8\n"
	if got := parseKills(events); got != (Kills{Limit: 4, OOM: 2}) {
		t.Errorf("memory.events: %+v", got)
	}
	stat := "usage_usec 1500250\nuser_usec 1000000\nsystem_usec 500250\nnice_usec 0\ncore_sched.force_idle_usec 0\nnr_periods 0\n"
	if got := parseCPU(stat); got != 1500250*time.Microsecond {
		t.Errorf("cpu.stat: %v", got)
	}
	if got := parsePIDs("17\n0\n4194304\n"); !reflect.DeepEqual(got, []int{17, 4194304}) {
		t.Errorf("cgroup.procs: %v", got)
	}
	for _, text := range []string{"", "\n", "oom", "oom_kill x\n", "oom_kill -1\n", "usage_usec 18446744073709551616\n"} {
		if k, c := parseKills(text), parseCPU(text); k != (Kills{}) || c != 0 {
			t.Errorf("%q: %+v, %v", text, k, c)
		}
	}
}

func TestTheGroupOfAService(t *testing.T) {
	for path, want := range map[string]string{
		"/system.slice/baton-web.service":                                   "/system.slice/baton-web.service",
		"/system.slice/baton-web.service/launcher":                          "/system.slice/baton-web.service",
		"/system.slice/baton-web.service/.control":                          "/system.slice/baton-web.service",
		"/user.slice/user-1000.slice/user@1000.service/app.slice/x.service": "/user.slice/user-1000.slice/user@1000.service/app.slice/x.service",
		"/user.slice/user-1000.slice/user@1000.service/tmux-spawn.scope":    "",
		"/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope":   "",
		"/user.slice/user-1000.slice/session-3.scope":                       "",
		"/system.slice/baton-web.service/generation-1/own":                  "", // a worker's, not a launcher's
		"/docker/0123456789abcdef":                                          "",
		"/":                                                                 "",
	} {
		if got, ok := serviceOf(path); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", path, got, ok)
		}
	}
}

func TestPlacesOfAProcess(t *testing.T) {
	hybrid := "9:name=systemd:/system.slice/a.service\n4:memory:/system.slice/a.service\n0::/system.slice/a.service\n"
	if got := parsePlaces(hybrid); !reflect.DeepEqual(got, []place{{true, "/system.slice/a.service"}, {false, "/system.slice/a.service"}}) {
		t.Errorf("hybrid: %v", got)
	}
	if got := parsePlaces("0::/a:b\n"); !reflect.DeepEqual(got, []place{{true, "/a:b"}}) {
		t.Errorf("unified: %v", got)
	}
	if got := parsePlaces("\n4:memory:/x\n0:\nname=systemd\n"); got != nil {
		t.Errorf("neither: %v", got)
	}
}

func TestAGroupsNameIsItsGeneration(t *testing.T) {
	for name, want := range map[string]int{"generation-1": 1, "generation-120": 120, "generation-0": 0, "generation-01": 0,
		"generation--1": 0, "generation-1x": 0, "launcher": 0, "1": 0} {
		if n, ok := numberOf(name); ok != (want > 0) || ok && n != want {
			t.Errorf("%s: %d, %v", name, n, ok)
		}
	}
}

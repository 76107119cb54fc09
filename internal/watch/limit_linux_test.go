package watch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cramped in the environment makes this binary a process that may have few watches,
// in a user namespace of its own, and looks at the directory that is the value.
const cramped = "WATCH_TEST_CRAMPED"

// crampedMain prints what happens, one word a line.
func crampedMain(dir string) int {
	limit := func(name string, n int) bool {
		err := os.WriteFile("/proc/sys/user/max_inotify_"+name, fmt.Append(nil, n), 0)
		if err != nil {
			fmt.Println("unlimited", err)
		}
		return err == nil
	}
	if !limit("instances", 0) {
		return 0
	}
	none, err := New(Options{})
	fmt.Println("none", none == nil, err)
	if !limit("instances", 1) || !limit("watches", strings.Count(dir, "/")+3) {
		return 0
	}
	told := make(chan string, 10)
	w, err := New(Options{Paths: []string{dir + "/server", dir + "/config"}, Quiet: 10 * time.Millisecond,
		Changed: func(path string) { told <- path }, Failed: func(err error) { fmt.Println("failed", err) }})
	if err != nil {
		fmt.Println("new", err)
		return 0
	}
	defer w.Close()
	touch := func(path string) {
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			fmt.Println("write", err)
		}
	}
	touch(dir + "/server")
	fmt.Println("told", <-told)
	if !limit("watches", 1000) {
		return 0
	}
	if err := os.Mkdir(dir+"/config/more", 0o755); err != nil { // it looks again
		fmt.Println("mkdir", err)
	}
	fmt.Println("told", <-told)
	touch(dir + "/config/z/file")
	fmt.Println("told", <-told)
	return 0
}

func TestTooFewWatchesAreSaidAndTheRestGoesOn(t *testing.T) {
	dir := tree(t, "server", "config/a/file", "config/b/file", "config/c/file", "config/z/file")
	self, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), cramped+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil && len(out) == 0 || strings.HasPrefix(string(out), "unlimited") {
		t.Skipf("no user namespace with limits of its own: %v %s", err, out)
	}
	// A directory on the way down, bin's and three in the configuration's are watched.
	want := fmt.Sprintf(`none true watch: couldn't initialize inotify: too many open files (no inotify instance is left: raise the sysctl fs.inotify.max_user_instances, or the limit of open files)
failed watch %[1]s/config/b and others: no space left on device (no inotify watch is left: raise the sysctl fs.inotify.max_user_watches)
told %[1]s/server
told %[1]s/config/more
told %[1]s/config/z/file
`, dir)
	if err != nil || string(out) != want {
		t.Errorf("it says (%v)\n%swant\n%s", err, out, want)
	}
}

func TestADirectoryThatMayNotBeReadMattersOnlyAtTheEndOfAPath(t *testing.T) {
	dir := tree(t, "way/bin/server", "shut/server")
	for _, d := range []string{filepath.Dir(dir), dir + "/way", dir + "/shut"} {
		must(t, os.Chmod(d, 0o111))
		defer func() { must(t, os.Chmod(d, 0o700)) }()
	}
	if os.Geteuid() == 0 { // who may read everything
		runtime.LockOSThread() // the first look is taken by who calls New
		defer runtime.UnlockOSThread()
		must(t, unix.Setfsuid(65534))
	}
	var failed []string
	w, err := New(Options{Paths: []string{dir + "/way/bin/server", dir + "/shut/server"},
		Changed: func(string) {}, Failed: func(err error) { failed = append(failed, err.Error()) }})
	if os.Geteuid() == 0 {
		must(t, unix.Setfsuid(0))
	}
	must(t, err)
	w.Close()
	if want := []string{"watch " + dir + "/shut: permission denied"}; !slices.Equal(failed, want) {
		t.Errorf("it says %q, want %q", failed, want)
	}
}

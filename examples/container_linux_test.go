package examples

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"baton/internal/load"
	"baton/internal/testkit"
)

// container has the files for images and for those who run them.
const container = "container"

// image is what a Containerfile says, as far as ours goes: carried out by the test, with
// the file system that it leads to in root.
type image struct {
	root, out  string
	env        []string
	user       string
	entrypoint []string
	health     []string
}

// buildImage carries a Containerfile out with what is installed here: RUN in the top of
// the module, with /out somewhere else, and COPY into the root of the last stage.
func buildImage(t *testing.T) image {
	t.Helper()
	im := image{root: filepath.Join(readable(t), "root"), out: filepath.Join(t.TempDir(), "out")}
	text, err := os.ReadFile(container + "/Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "RUN":
			if err := command(t, "..", "sh", "-c", strings.ReplaceAll(rest, "/out", im.out)); err != nil {
				t.Fatal(err)
			}
		case "COPY":
			im.copy(t, rest)
		case "ENV":
			im.env = append(im.env, rest)
		case "USER":
			im.user = rest
		case "ENTRYPOINT":
			im.entrypoint = list(t, rest)
		case "HEALTHCHECK":
			_, cmd, _ := strings.Cut(rest, " CMD ")
			im.health = list(t, cmd)
		case "", "#", "FROM", "WORKDIR", "EXPOSE":
		default:
			t.Fatalf("Containerfile: the test does not know %q", word)
		}
	}
	return im
}

func list(t *testing.T, text string) (words []string) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &words); err != nil {
		t.Fatalf("Containerfile: %s: %v", text, err)
	}
	return words
}

func (im image) copy(t *testing.T, words string) {
	t.Helper()
	f := strings.Fields(words)
	flags := slices.DeleteFunc(slices.Clone(f), func(w string) bool { return !strings.HasPrefix(w, "--") })
	f = slices.DeleteFunc(f, func(w string) bool { return strings.HasPrefix(w, "--") })
	if len(f) == 2 && f[0] == "." {
		return // the context, which RUN finds where it is
	}
	from := filepath.Join("..", f[0])
	if slices.Contains(flags, "--from=build") {
		from = im.out + strings.TrimPrefix(f[0], "/out")
	}
	to := filepath.Join(im.root, f[1])
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := command(t, ".", "cp", "-r", from, to); err != nil {
		t.Fatal(err)
	}
	for _, flag := range flags {
		if owner, is := strings.CutPrefix(flag, "--chown="); is {
			if err := command(t, ".", "chown", "-R", owner, to); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// contained runs the image's entry point as Kubernetes would by kubernetes.yaml: as PID 1,
// in a root of its own that is read-only, as the image's user, without a capability. In the
// place of the fixed port it has one of the test's.
func contained(t *testing.T, im image) *app {
	t.Helper()
	a := &app{t: t, port: testkit.FreePort(t)}
	path := filepath.Join(im.root, "etc", "baton", "baton.toml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mine := strings.Replace(string(text), `":8080"`, fmt.Sprintf("%q", "127.0.0.1:"+strconv.Itoa(a.port)), 1)
	if mine == string(text) {
		t.Fatal("baton.toml has no :8080")
	}
	if err := os.WriteFile(path, []byte(mine), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"proc", "secrets", "dev"} {
		if err := os.Mkdir(filepath.Join(im.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	a.Launcher = testkit.NewBaton(t)
	c := a.Cmd
	mark := slices.DeleteFunc(c.Env, func(kv string) bool { return !strings.HasPrefix(kv, "BATON_TESTKIT_RUN=") })
	c.Env = append(slices.Clone(im.env), mark...)
	c.Path = "/bin/sh"
	c.Args = append([]string{"sh", "-ec", `
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t tmpfs -o mode=0777 emptydir "$1/run/baton"
mount -t tmpfs -o mode=0755 dev "$1/dev"
mknod -m 666 "$1/dev/null" c 1 3
mount -o remount,bind,ro "$1"
root=$1 user=$2
shift 2
exec setpriv --no-new-privs chroot --userspec="$user" --groups= "$root" "$@"`, "sh", im.root, im.user}, im.entrypoint...)
	c.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
	a.Start()
	a.serving(1)
	return a
}

// inside runs a command as the engine's exec would, and returns its exit code.
func (a *app) inside(im image, words ...string) (code int, said string) {
	a.t.Helper()
	uid, gid, _ := strings.Cut(im.user, ":")
	c := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(a.PID()), "-m", "-p", "-r", "-w", "-S", uid, "-G", gid, "--"}, words...)...)
	c.Env = im.env
	out, err := c.CombinedOutput()
	if c.ProcessState == nil {
		a.t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), string(out)
}

func TestContainerDoesWhatItsFilesSay(t *testing.T) {
	if os.Geteuid() != 0 {
		testkit.Lack(t, "needs root: it makes namespaces")
	}
	for _, program := range []string{"nsenter", "setpriv", "chroot"} {
		if _, err := exec.LookPath(program); err != nil {
			testkit.Lack(t, "needs %s: %v", program, err)
		}
	}
	im := buildImage(t)
	job := readJob(t)
	a := contained(t, im)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`NSpid:\t\d+\t1\n`, `NoNewPrivs:\t1\n`, `CapEff:\t0+\n`, `Uid:\t65532\t`} {
		if !regexp.MustCompile(want).Match(status) {
			t.Errorf("baton's status has no %s: %s", want, status)
		}
	}
	if code, said := a.inside(im, im.health...); code != 0 {
		t.Errorf("%v: exit code %d: %s", im.health, code, said)
	}
	other := append(slices.Clone(im.health[:len(im.health)-1]), "other")
	if code, said := a.inside(im, other...); code != 4 {
		t.Errorf("%v: exit code %d: %s", other, code, said)
	}

	a.load(load.Options{Kind: load.Fresh, Clients: 4}, 2*time.Millisecond)
	a.answered()
	render(t, filepath.Join(im.root, job.destination), "GREETING=hello\n")
	a.Signal(job.signal)
	a.serving(2)
	a.answered()
	a.WaitEvent(0, "gone", "generation", 1)
	for _, pid := range a.Children() {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || !strings.Contains("\x00"+string(env), "\x00GREETING=hello\x00") {
			t.Errorf("worker %d has no GREETING: %q (%v)", pid, env, err)
		}
	}
	a.lost(0)
	a.Stop()
}

func render(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// job is what of the Nomad job concerns baton.
type job struct {
	destination string
	signal      syscall.Signal
	killTimeout time.Duration
}

// readJob takes values out of the job, which HCL's own formatter has parsed.
func readJob(t *testing.T) job {
	t.Helper()
	path := container + "/web.nomad.hcl"
	if err := command(t, ".", "go", "tool", "-modfile=../tools/go.mod", "hclfmt", "-check", path); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	value := func(key string) string {
		m := regexp.MustCompile(`(?m)^\s*`+key+`\s*=\s*"(.*)"$`).FindAllStringSubmatch(string(text), -1)
		if len(m) != 1 {
			t.Fatalf("%s: %d values of %s", path, len(m), key)
		}
		return m[0][1]
	}
	j := job{destination: value("destination"), signal: unix.SignalNum(value("change_signal"))}
	if j.killTimeout, err = time.ParseDuration(value("kill_timeout")); err != nil {
		t.Error(err)
	}
	if value("change_mode") != "signal" || value("kill_signal") != "SIGTERM" || j.signal == 0 {
		t.Errorf("%s does not send a signal: %+v", path, j)
	}
	return j
}

// deployment is what of it concerns baton.
type deployment struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Spec       struct {
		Selector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		}
		Template struct {
			Metadata struct{ Labels map[string]string }
			Spec     struct {
				Grace      int            `yaml:"terminationGracePeriodSeconds"`
				Security   map[string]any `yaml:"securityContext"`
				Containers []struct {
					Image string
					Ports []struct {
						ContainerPort int `yaml:"containerPort"`
					}
					Startup   probe `yaml:"startupProbe"`
					Readiness probe `yaml:"readinessProbe"`
					Lifecycle struct {
						PreStop struct{ Sleep struct{ Seconds int } } `yaml:"preStop"`
					}
					Mounts []struct {
						Name string
						Path string `yaml:"mountPath"`
					} `yaml:"volumeMounts"`
				}
			}
		}
	}
}

type probe struct{ Exec struct{ Command []string } }

func readDeployment(t *testing.T) (d deployment) {
	t.Helper()
	text, err := os.ReadFile(container + "/kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// The four files name the same things, and leave baton the time that it may take.
func TestContainersFilesAgree(t *testing.T) {
	text, err := os.ReadFile(container + "/Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	d, j := readDeployment(t), readJob(t)
	pod := d.Spec.Template.Spec
	if d.APIVersion != "apps/v1" || d.Kind != "Deployment" || len(pod.Containers) != 1 {
		t.Fatalf("not a Deployment of one container: %+v", d)
	}
	c := pod.Containers[0]
	same := func(what string, a, b any) {
		t.Helper()
		if fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("%s: %v and %v", what, a, b)
		}
	}
	said := func(word string) string {
		m := regexp.MustCompile(`(?m)^` + word + `(.*)$`).FindStringSubmatch(string(text))
		if m == nil {
			t.Fatalf("Containerfile: no %s", word)
		}
		return m[1]
	}
	health := list(t, said(`HEALTHCHECK .* CMD `))
	same("probe", c.Readiness.Exec.Command, health)
	same("probe", c.Startup.Exec.Command, health)
	same("user", fmt.Sprint(pod.Security["runAsUser"], ":", pod.Security["runAsGroup"]), said("USER "))
	same("port", c.Ports[0].ContainerPort, said("EXPOSE "))
	same("home", c.Mounts[0].Path, said("ENV BATON_HOME="))
	same("labels", d.Spec.Selector.MatchLabels, d.Spec.Template.Metadata.Labels)

	toml, err := os.ReadFile(container + "/baton.toml")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^drain_timeout = "(.*)"$`).FindStringSubmatch(string(toml))
	if m == nil {
		t.Fatal("baton.toml: no drain_timeout")
	}
	drain, err := time.ParseDuration(m[1])
	if err != nil {
		t.Fatal(err)
	}
	const before = 5 * time.Second // the longest that slots take to empty, generously
	if grace := time.Duration(pod.Grace-c.Lifecycle.PreStop.Sleep.Seconds) * time.Second; grace < drain+before {
		t.Errorf("Kubernetes leaves %v after preStop, and a drain takes %v", grace, drain)
	}
	if j.killTimeout < drain+before {
		t.Errorf("Nomad leaves %v, and a drain takes %v", j.killTimeout, drain)
	}
}

package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"baton/internal/testkit"

	"github.com/google/go-cmp/cmp"
)

func web() Service {
	return Service{
		App: "web", Exec: []string{"/usr/bin/true", "run", "--name", "web", "--", "./server", "a b", "100%", "$HOME", `"\`, ";", "", "é", "l\nf"},
		Reload: []string{"/usr/bin/true", "reload", "web"}, Cleanup: []string{"/usr/bin/true", "cleanup", "web"}, Directory: "/tmp", Environment: "/var/lib/baton/apps/web.env", Stop: 41500 * time.Millisecond,
	}
}

func text(t *testing.T, s Service) string {
	t.Helper()
	text, err := s.Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTheUnit(t *testing.T) {
	got := text(t, web())
	for _, want := range []string{
		"ExecStart=/usr/bin/true run --name web -- ./server \"a b\" \"100%%\" $$HOME \"\\\"\\\\\" \";\" \"\" é \"l\\x0af\"\n",
		"ExecReload=/usr/bin/true reload web\n", "WorkingDirectory=/tmp\n", "EnvironmentFile=/var/lib/baton/apps/web.env\n",
		"TimeoutStopSec=42\n", "\nType=notify\nNotifyAccess=main\n", "KillMode=process\n", "ExecStopPost=/usr/bin/true cleanup web\n", "\nRestartPreventExitStatus=0 5 6\n", "WantedBy=multi-user.target\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if !Ours(got) || Ours("[Unit]\n"+got) || strings.Contains(got, "User=") {
		t.Errorf("the mark is not the first line, or there is a user:\n%s", got)
	}
	s := web()
	s.User, s.UID, s.Stop = "joe", "1000", 0
	if got := text(t, s); !strings.Contains(got, "User=joe\nEnvironment=XDG_RUNTIME_DIR=/run/user/1000\n") || !strings.Contains(got, "TimeoutStopSec=infinity\n") {
		t.Errorf("for a user:\n%s", got)
	}
	s = web()
	s.Own = true
	if got := text(t, s); !strings.Contains(got, "WantedBy=default.target\n") || strings.Contains(got, "network") {
		t.Errorf("for the user's own manager:\n%s", got)
	}
}

func TestWhatAUnitCannotSayIsRefused(t *testing.T) {
	for _, dir := range []string{"relative", "/a\nExecStart=/bin/sh", "/a ", "/a\\", "/a*"} {
		for _, change := range []func(*Service){func(s *Service) { s.Directory = dir }, func(s *Service) { s.Environment = dir }} {
			s := web()
			change(&s)
			if got, err := s.Text(); err == nil {
				t.Errorf("%q:\n%s", dir, got)
			}
		}
	}
	s := web()
	s.Directory = "/srv/100% a\\b"
	if got := text(t, s); !strings.Contains(got, "WorkingDirectory=/srv/100%% a\\b\n") {
		t.Error(got)
	}
}

func TestTheNameIsOneOfAUnit(t *testing.T) {
	for app, want := range map[string]string{"web": "baton-web.service", "a_b.c-d": "baton-a_b.c-d.service", "a b@/é": `baton-a\x20b\x40\x2f\xc3\xa9.service`} {
		if got := Name(app); got != want {
			t.Errorf("%q: %s, want %s", app, got, want)
		}
	}
}

// systemd's own check has nothing to say of it.
func TestSystemdFindsNoFault(t *testing.T) {
	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		testkit.Lack(t, "systemd-analyze is not installed")
	}
	for _, of := range []string{"root", "joe", "joe's own manager"} {
		s := web()
		user := of != "root" && of != "joe"
		if s.Own = user; of == "joe" {
			s.User, s.UID = "games", "5" // one that there is
		}
		path := filepath.Join(t.TempDir(), Name("web"))
		if err := os.WriteFile(path, []byte(text(t, s)), 0o644); err != nil {
			t.Fatal(err)
		}
		args := []string{"verify", "--man=no", path}
		if user {
			args = append(args, "--user")
		}
		cmd := exec.Command(verify, args...)
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Contains(string(out), Name("web")) {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}

// systemd's own judgement of what it keeps from the application.
func TestSystemdCallsTheSandboxOK(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		testkit.Lack(t, "systemd-analyze is not installed")
	}
	for _, user := range []string{"", "joe"} {
		s := web()
		s.User, s.UID = user, "1000"
		path := filepath.Join(t.TempDir(), Name("web"))
		if err := os.WriteFile(path, []byte(text(t, s)), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(analyze, "security", "--offline=yes", "--no-pager", "--threshold=49", path).CombinedOutput()
		if err != nil {
			t.Errorf("user %q: %v\n%s", user, err, out)
			continue
		}
		t.Logf("user %q: %s", user, out[strings.Index(string(out), "Overall"):])
	}
}

func TestAnApplicationBelowWhatIsReadOnlyCanWriteThere(t *testing.T) {
	s := web()
	for dir, want := range map[string]string{
		"/usr/local/app": "ReadWritePaths=/usr/local/app\n", "/etc": "", "/srv/a": "", "/usrlocal": "", "/": "",
		"/etc/100% a": "ReadWritePaths=\"/etc/100%% a\"\n",
	} {
		s.Directory = dir
		got := text(t, s)
		if want != "" && !strings.Contains(got, want) || want == "" && strings.Contains(got, "ReadWritePaths") {
			t.Errorf("in %s, want %q:\n%s", dir, want, got)
		}
	}
}

func FuzzCommand(f *testing.F) {
	f.Add("a b", "$x%")
	f.Add("\"\\\n", "")
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.ContainsRune(a+b, 0) {
			return
		}
		line := command([]string{"/bin/true", a, b})
		if strings.ContainsAny(line, "\n\r\t") || strings.HasSuffix(line, `\`) {
			t.Errorf("%q", line)
		}
		if got := unquote(t, line); !cmp.Equal(got, []string{"/bin/true", a, b}) {
			t.Errorf("%q is read as %q", line, got)
		}
	})
}

// unquote reads a line as systemd.service(5) and systemd.syntax(7) say.
func unquote(t *testing.T, line string) (words []string) {
	t.Helper()
	var word strings.Builder
	quoted, some := false, false
	end := func() {
		text := strings.ReplaceAll(word.String(), "%%", "%")
		words = append(words, strings.ReplaceAll(text, "$$", "$"))
		word.Reset()
		some = false
	}
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '"':
			quoted, some = !quoted, true
		case c == ' ' && !quoted:
			end()
		case c == '\\' && line[i+1] == 'x':
			var n byte
			for _, h := range []byte(line[i+2 : i+4]) {
				n = n<<4 + byte(strings.IndexByte("0123456789abcdef", h))
			}
			word.WriteByte(n)
			i += 3
		case c == '\\':
			i++
			word.WriteByte(line[i])
		default:
			word.WriteByte(c)
		}
	}
	if some || word.Len() > 0 {
		end()
	}
	return words
}

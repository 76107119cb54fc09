package hooks

import (
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"baton/internal/event"
	"baton/internal/testkit"
)

const page = "../../docs/hooks.md"

// documented are the commands of the page's configuration, by hook. Its strings are
// TOML's without escapes.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^```toml\n(.*?)^```").FindSubmatch(text)
	if block == nil {
		t.Fatalf("no configuration in %s", page)
	}
	all := map[string][]string{}
	word := regexp.MustCompile(`'([^']*)'|"([^"\\]*)"`)
	for _, m := range regexp.MustCompile(`(?m)^(\w+) = \[(.*)\]$`).FindAllStringSubmatch(string(block[1]), -1) {
		if rest := strings.Trim(word.ReplaceAllString(m[2], ""), ", "); rest != "" {
			t.Fatalf("%s: this is not understood: %s", m[1], rest)
		}
		for _, w := range word.FindAllStringSubmatch(m[2], -1) {
			all[m[1]] = append(all[m[1]], w[1]+w[2])
		}
	}
	return all
}

// has skips, or in CI fails, a test whose programs are not installed.
func has(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("BATON_EXAMPLES") != "" {
				t.Fatalf("%s: %v", page, err)
			}
			t.Skipf("%s: %v", page, err)
		}
	}
}

// nasty is an event whose words must reach people unharmed.
func nasty(k event.Kind) event.Event {
	e := sample()
	e.Kind = k
	e.Message = `generation 7 failed: "$(id)" \n 'ü' %s --help`
	return e
}

// post is what a stand-in of a service was sent.
type post struct{ method, kind, body string }

// service answers with a status, and keeps what it was sent.
func service(t *testing.T, status int) (url string, posts chan post) {
	t.Helper()
	posts = make(chan post, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		posts <- post{r.Method, r.Header.Get("Content-Type"), string(body)}
		w.WriteHeader(status)
	}))
	t.Cleanup(s.Close)
	return s.URL, posts
}

// run runs a documented command on an event, with words of it replaced, and returns
// what the log says.
func run(t *testing.T, hook string, k event.Kind, env []string, replace func(string) string) line {
	t.Helper()
	argv := documented(t)[hook]
	if len(argv) == 0 {
		t.Fatalf("%s has no command for %s", page, hook)
	}
	for i, w := range argv {
		argv[i] = replace(w)
	}
	b := &book{}
	clean := slices.DeleteFunc(os.Environ(), func(kv string) bool { // a proxy has no way to a test's own server
		return strings.Contains(strings.ToLower(kv), "_proxy=")
	})
	h := New(Options{Name: "shop", Env: append(clean, env...),
		Config: Config{Ready: argv, Swap: argv, Rollback: argv, Crash: argv, Stuck: argv, Timeout: time.Minute},
		Log:    slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	h.Observe(nasty(k))
	h.Close()
	said := b.lines(t)
	if len(said) != 1 {
		t.Fatalf("the log says %+v", said)
	}
	return said[0]
}

var address = regexp.MustCompile(`https://[\w.]+example\.org[\w/]*`)

// to replaces the address of a service.
func to(t *testing.T, url string) func(string) string {
	return func(w string) string {
		if n := len(address.FindAllString(w, -1)); n > 1 {
			t.Fatalf("%d addresses in %s", n, w)
		}
		return address.ReplaceAllString(w, url)
	}
}

func TestThePageHasACommandForEachKindOfReceiver(t *testing.T) {
	var got []string
	for hook := range documented(t) {
		got = append(got, hook)
	}
	slices.Sort(got)
	if want := []string{"crash", "rollback", "stuck", "swap"}; !slices.Equal(got, want) {
		t.Errorf("documented are %q, run by the tests are %q", got, want)
	}
}

func TestTheMailOfThePageArrives(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nprintf '%s\\n' \"$@\" >" + dir + "/to\ncat >" + dir + "/mail\n"
	if err := os.WriteFile(filepath.Join(dir, "sendmail"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	got := run(t, "crash", event.Crashed, []string{"PATH=" + dir + ":" + os.Getenv("PATH")}, func(w string) string { return w })
	if got.Level != "DEBUG" {
		t.Errorf("the log says %+v", got)
	}
	head, body, _ := strings.Cut(read(t, dir+"/mail"), "\n\n")
	if want := "Subject: shop: " + nasty(event.Crashed).Message; head != want || read(t, dir+"/to") != "ops@example.org\n" {
		t.Errorf("to %q:\n%s\nwant %s", read(t, dir+"/to"), head, want)
	}
	var e told
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.Worker != 12 {
		t.Errorf("the body is %q: %v", body, err)
	}
}

func TestTheWebhooksOfThePageArrive(t *testing.T) {
	has(t, "curl", "jq")
	url, posts := service(t, http.StatusOK)
	for _, c := range []struct {
		hook string
		kind event.Kind
		want map[string]any
	}{
		{"rollback", event.RolledBack, map[string]any{"username": "shop", "text": nasty("").Message}},
		{"stuck", event.Stuck, map[string]any{"name": "shop", "hook": "stuck", "event": "stuck", "message": nasty("").Message}},
	} {
		if got := run(t, c.hook, c.kind, nil, to(t, url)); got.Level != "DEBUG" {
			t.Errorf("%s: the log says %+v", c.hook, got)
			continue
		}
		p := <-posts
		var body map[string]any
		if err := json.Unmarshal([]byte(p.body), &body); err != nil {
			t.Errorf("%s: %v in %q", c.hook, err, p.body)
		}
		for key, want := range c.want {
			if body[key] != want {
				t.Errorf("%s: %s is %v, want %v", c.hook, key, body[key], want)
			}
		}
		if p.method != http.MethodPost || p.kind != "application/json" {
			t.Errorf("%s: %s of %s", c.hook, p.method, p.kind)
		}
	}
}

func TestAWebhookThatRefusesIsInTheLog(t *testing.T) {
	has(t, "curl", "jq")
	url, _ := service(t, http.StatusForbidden)
	for hook, kind := range map[string]event.Kind{"rollback": event.RolledBack, "stuck": event.Stuck} {
		if got := run(t, hook, kind, nil, to(t, url)); got.Level != "WARN" || !strings.Contains(got.Msg, "403") {
			t.Errorf("%s: the log says %+v", hook, got)
		}
	}
}

func TestTheLinesOfThePageReachTheSystemsLog(t *testing.T) {
	has(t, "logger")
	testkit.Leaks(t)
	dir, err := os.MkdirTemp("", "h") // short, for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "unixgram", dir+"/log")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := run(t, "swap", event.Serving, nil, func(w string) string {
		return strings.Replace(w, "logger ", "logger --socket "+dir+"/log ", 1)
	})
	if got.Level != "DEBUG" {
		t.Errorf("the log says %+v", got)
	}
	if err := l.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, _, err := l.ReadFrom(b)
	if said := string(b[:n]); err != nil || !strings.HasPrefix(said, "<29>") || !strings.HasSuffix(said, " shop: "+nasty("").Message) {
		t.Errorf("the system's log was sent %q, %v", said, err) // 29: daemon.notice
	}
}

// The page's example of an event is one.
func TestThePageShowsAnEventAsItIs(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^```json\n(.*?)^```").FindSubmatch(text)
	if block == nil {
		t.Fatal("no event on the page")
	}
	var shown told
	if err := json.Unmarshal(block[1], &shown); err != nil {
		t.Fatal(err)
	}
	h := New(Options{Name: shown.Name})
	b, err := h.input(call{hook: shown.Hook, event: shown.Event})
	if err != nil || string(b) != string(block[1]) {
		t.Errorf("%v: the page has\n%s, a command is given\n%s", err, block[1], b)
	}
	for _, kv := range h.variables(call{}) {
		if key, _, _ := strings.Cut(kv, "="); !strings.Contains(string(text), "`"+key+"`") {
			t.Errorf("the page does not mention %s", key)
		}
	}
}

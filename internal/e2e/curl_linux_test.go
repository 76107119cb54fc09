package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"baton/internal/testkit"
)

// Every curl line of docs/control.md, as it stands there, is answered by a real launcher
// with what the page says, or with why it can't be done now.
func TestThePagesRequestsAreAnswered(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		testkit.Lack(t, "needs curl: %v", err)
	}
	testkit.Leaks(t)
	page := contents(t, "../../docs/control.md")
	lines := regexp.MustCompile(`(?m)^    (curl .*)$`).FindAllStringSubmatch(page, -1)
	// What ends the launcher comes last, wherever it stands.
	slices.SortStableFunc(lines, func(a, b []string) int {
		ends := func(m []string) int { return strings.Count(m[1], "/v1/stop") }
		return ends(a) - ends(b)
	})
	a := run(t, config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0")))
	socket := filepath.Join(a.Home, "run", "test.sock")
	seen := map[string]bool{}
	var streams []func()
	for _, m := range lines {
		line := strings.ReplaceAll(m[1], "/run/baton/web.sock", "$S")
		path := regexp.MustCompile(`/v1/(\w+)`).FindStringSubmatch(line)
		if path == nil {
			t.Errorf("%s: no path", line)
			continue
		}
		seen[path[1]] = true
		var out, errs bytes.Buffer
		cmd := exec.Command("sh", "-c", line+` -w '\n%{http_code}\n'`)
		cmd.Env = append(os.Environ(), "S="+socket)
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		look := func() {
			t.Helper()
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s: %v, %s", line, err, errs.String())
			}
			curled(t, line, out.String())
		}
		if path[1] == "events" && !strings.Contains(line, "follow=0") {
			streams = append(streams, look) // it ends with the launcher
			continue
		}
		look()
	}
	for _, look := range streams {
		look()
	}
	if code := a.Wait(); code != 0 {
		t.Errorf("baton's exit code is %d", code)
	}
	for _, path := range []string{"status", "events", "reload", "rollback", "promote", "abort", "scale", "stop", "reopen", "flush"} {
		if !seen[path] {
			t.Errorf("the page shows no request of /v1/%s", path)
		}
	}
}

// curled looks at what curl printed: lines of JSON, and the status.
func curled(t *testing.T, line, text string) {
	t.Helper()
	text = strings.TrimSpace(text)
	at := strings.LastIndexByte(text, '\n')
	if at < 0 {
		t.Fatalf("%s: %q", line, text)
	}
	body, status := text[:at], text[at+1:]
	if !slices.Contains([]string{"200", "202", "409"}, status) {
		t.Errorf("%s: status %s, %s", line, status, body)
	}
	for _, l := range strings.Split(strings.TrimSpace(body), "\n") {
		var fields map[string]any
		if err := json.Unmarshal([]byte(l), &fields); err != nil || len(fields) == 0 {
			t.Errorf("%s: %v in %q", line, err, l)
		}
		if _, failed := fields["error"]; failed != (status == "409" && fields["outcome"] == nil) {
			t.Errorf("%s: status %s, %s", line, status, l)
		}
	}
}

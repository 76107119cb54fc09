package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"baton/internal/config"

	"golang.org/x/sys/unix"
)

// terminal opens a pseudo terminal: what is written to tty is read from screen.
func terminal(t *testing.T) (screen, tty *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { screen.Close() })
	fd := int(screen.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { tty.Close() })
	return screen, tty
}

// line logs one line to w and reads it back from r.
func line(t *testing.T, w, r *os.File, format string) string {
	t.Helper()
	logger(w, format, new(slog.LevelVar)).Info("hello", "answer", 42)
	text, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(text)
}

func logFile(t *testing.T) (w, r *os.File) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	if r, err = os.Open(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return w, r
}

func TestLogIsColouredTextOnATerminal(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	screen, tty := terminal(t)
	got := line(t, tty, screen, "auto")
	if !strings.Contains(got, "hello") || !strings.Contains(got, "\x1b[") || json.Valid([]byte(got)) {
		t.Errorf("%q", got)
	}
}

func TestLogOnATerminalWithoutColour(t *testing.T) {
	for name, value := range map[string]string{"NO_COLOR": "1", "TERM": "dumb"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NO_COLOR", "")
			t.Setenv("TERM", "xterm")
			t.Setenv(name, value)
			screen, tty := terminal(t)
			got := line(t, tty, screen, "auto")
			if !strings.Contains(got, "hello answer=42") || strings.Contains(got, "\x1b") {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestLogIsJSONOnATerminalOnRequest(t *testing.T) {
	screen, tty := terminal(t)
	if got := line(t, tty, screen, "json"); !json.Valid([]byte(got)) {
		t.Errorf("%q", got)
	}
}

func TestLogInAFile(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	w, r := logFile(t)
	if got := line(t, w, r, "auto"); !json.Valid([]byte(got)) {
		t.Errorf("auto: %q", got)
	}
	w, r = logFile(t)
	if got := line(t, w, r, "text"); !strings.HasSuffix(got, "hello answer=42") || strings.Contains(got, "\x1b") {
		t.Errorf("text: %q", got)
	}
}

func TestDevNullIsNoTerminal(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if isTerminal(null) {
		t.Error("/dev/null is taken for a terminal")
	}
}

func TestLevelFollowsTheConfiguration(t *testing.T) {
	for _, word := range []string{"debug", "info", "warn", "error"} {
		var level slog.LevelVar
		c := config.Default()
		c.Log.Level = word
		setLevel(&level, c)
		if got := strings.ToLower(level.Level().String()); got != word {
			t.Errorf("level %s gives %s", word, got)
		}
	}
}

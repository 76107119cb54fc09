package cli

import (
	"io/fs"
	"log/slog"
	"os"

	"baton/internal/config"

	"github.com/lmittmann/tint"
)

// logger is the launcher's log on w: text for people, JSON for machines. The level
// may be changed later through level.
func logger(w *os.File, format string, level *slog.LevelVar) *slog.Logger {
	if format == "json" || format != "text" && !isTerminal(w) {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(tint.NewHandler(w, &tint.Options{
		Level:      level,
		TimeFormat: "15:04:05.000",
		NoColor:    !coloured(w),
	}))
}

// coloured reports whether what is written there may have colours, and other things
// that a terminal alone understands. https://no-color.org: set and not empty.
func coloured(w *os.File) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w)
}

// setLevel follows the configuration; its words are slog's.
func setLevel(level *slog.LevelVar, c *config.Config) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.Log.Level)); err == nil { // config lets only these words through
		level.Set(l)
	}
}

// isTerminal takes a character device for a terminal, save /dev/null. Without a
// terminal library that is what can be known on every system; the other devices a
// log could be sent to (a serial line, the console) are read by people too.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&fs.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

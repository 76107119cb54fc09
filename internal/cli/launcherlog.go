package cli

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"baton/internal/config"
	"baton/internal/control"
)

// The file that a launcher in the background has as standard output and error. While its
// workers' output is captured there is little in it: what comes before the store is open,
// or when that cannot be written, and a crash of the launcher. Where the configuration has
// workers write there themselves it has all of theirs. Nobody but the launcher bounds it.

// launcherLog is that file of an application.
func launcherLog(name string) (string, error) {
	dir, err := control.Logs()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, name, "baton.log"), nil
}

// keepLog is how much of it stays, and as much of what came before; with workers' output
// in it that is what a file of captured output has by default.
const keepLog = 1 << 20

// openLog opens it, for nobody else to read.
func openLog(name string) (*os.File, error) {
	path, err := launcherLog(name)
	if err != nil {
		return nil, err
	}
	if err := control.Private(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(path); err == nil && info.Size() > keepLog {
		if err := os.Rename(path, path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// boundLog keeps it bounded while this launcher writes to it, until stop.
func boundLog(out *os.File, c *config.Config) (stop func()) {
	path, err := launcherLog(c.Name)
	if err != nil {
		return func() {}
	}
	most := int64(keepLog)
	if c.Logs.Output != config.OutputCapture {
		most = max(most, c.Logs.MaxSize)
	}
	done := make(chan struct{})
	go func() { // ends with stop
		look := time.NewTicker(lookAtLog)
		defer look.Stop()
		for {
			select {
			case <-look.C:
				_ = cutLog(out, path, most) // the next look tries again
			case <-done:
				return
			}
		}
	}()
	return func() { close(done) }
}

const lookAtLog = time.Second

// cutLog empties the file that out writes to when it is larger than most, and leaves the
// last of it beside. It is copied and emptied, and not renamed: workers, and a crash, go on
// writing to what is open, at its end (O_APPEND). What comes between is lost.
func cutLog(out *os.File, path string, most int64) error {
	info, err := out.Stat()
	if err != nil || info.Size() <= most {
		return err
	}
	if there, err := os.Lstat(path); err != nil || !os.SameFile(there, info) {
		return nil // somebody moved it away, whose it is now
	}
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close() // read only
	before, err := os.OpenFile(path+".1", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = io.Copy(before, io.NewSectionReader(from, max(0, info.Size()-most), most))
		err = errors.Join(err, before.Close())
	}
	// Also when the disk is full: to empty it is what helps then.
	return errors.Join(err, os.Truncate(path, 0))
}

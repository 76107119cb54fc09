package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The files of a store lie in a directory of its own: the current one, to which is
// appended, and those that were rotated away, whose names sort by their time. A
// rotated file is followed by its compressed self, never by both for long.
const (
	current    = "log.jsonl"
	rotatedFix = "log-"
	rotatedEnd = ".jsonl"
	gzEnd      = ".gz"
	unfinished = ".tmp" // behind the name of what is being compressed
	nameForm   = "20060102T150405.000000000Z"
)

// Directory is where the store of an application lies below a directory of logs.
func Directory(logs, name string) string { return filepath.Join(logs, name) }

// rotated is a file that was rotated away.
type rotated struct {
	name string // without gzEnd
	time time.Time
	gz   bool
}

func (r rotated) file() string {
	if r.gz {
		return r.name + gzEnd
	}
	return r.name
}

// list finds the rotated files, the oldest first. Of one that is there both plain and
// compressed the plain one counts: the other may not be whole.
func list(dir string) ([]rotated, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []rotated
	for _, e := range entries { // sorted: the plain one stands before the compressed one
		name, gz := strings.CutSuffix(e.Name(), gzEnd)
		middle, ok := strings.CutPrefix(name, rotatedFix)
		middle, ok2 := strings.CutSuffix(middle, rotatedEnd)
		at, err := time.Parse(nameForm, middle)
		if !ok || !ok2 || err != nil || !e.Type().IsRegular() {
			continue
		}
		if n := len(all); n > 0 && all[n-1].name == name {
			continue
		}
		all = append(all, rotated{name, at, gz})
	}
	slices.SortFunc(all, func(a, b rotated) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

// Empty removes what a store holds. Whoever writes to it begins a new file; nobody
// needs to.
func Empty(dir string) error {
	all, err := list(dir)
	if err != nil {
		return err
	}
	for _, r := range all {
		err = errors.Join(err, remove(dir, r.name), remove(dir, r.name+gzEnd))
	}
	return errors.Join(err, remove(dir, current))
}

func remove(dir, name string) error {
	if err := os.Remove(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// openCurrent opens the current file to append to it, and makes the directory.
func openCurrent(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// O_NONBLOCK: a fifo of that name is an error, and not a wait for its reader.
	f, err := os.OpenFile(filepath.Join(dir, current), os.O_RDWR|os.O_CREATE|os.O_APPEND|nonblock, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", f.Name())
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return f, nil
}

// prune removes the oldest files, so that with the current one there are at most keep,
// and those whose last line is older than the age.
func prune(dir string, keep int, before time.Time) error {
	all, err := list(dir)
	if err != nil {
		return err
	}
	for i, r := range all {
		if len(all)-i > keep-1 || r.time.Before(before) {
			err = errors.Join(err, remove(dir, r.name), remove(dir, r.name+gzEnd))
		}
	}
	return err
}

// rotate gives the current file its name among the rotated ones.
func rotate(dir string, now time.Time) error {
	all, err := list(dir)
	if err != nil {
		return err
	}
	if n := len(all); n > 0 && !now.After(all[n-1].time) { // the clock was set back
		now = all[n-1].time.Add(time.Nanosecond)
	}
	return os.Rename(filepath.Join(dir, current), filepath.Join(dir, rotatedFix+now.UTC().Format(nameForm)+rotatedEnd))
}

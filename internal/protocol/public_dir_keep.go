package protocol

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"baton/internal/keep"
)

// DirsState is the public directories of one purpose, the present one first. Each is kept
// as "<prefix>.0" and so on.
type DirsState struct {
	Dirs []DirState `json:"dirs,omitempty"`
	Now  bool       `json:"now,omitempty"` // the first one is in use
}

// DirState is one of them, as it was once made.
type DirState struct {
	Path  string   `json:"path"`
	Dev   uint64   `json:"dev"`
	Inode uint64   `json:"inode"`
	Mode  uint32   `json:"mode"`
	Owner int      `json:"owner"`
	Names []string `json:"names,omitempty"` // of files that were made in it
}

// keep says what resume needs. Call it with the hub's lock held.
func (p *publicDirs) keep(prefix string, f *keep.Files) (s DirsState) {
	all := p.former
	if s.Now = p.now != nil; s.Now {
		all = append([]*publicDir{p.now}, p.former...)
	}
	for i, d := range all {
		state := DirState{Path: d.path, Mode: uint32(d.made.mode), Owner: d.made.owner, Names: slices.Sorted(maps.Keys(d.names))}
		state.Dev, state.Inode = identity(d.made.info)
		s.Dirs = append(s.Dirs, state)
		number(d.held, func(fd int) { f.Put(prefix+"."+strconv.Itoa(i), fd) })
	}
	return s
}

// resume takes them over. One that is gone from its place is forgotten: there will be
// another when it is needed.
func (p *publicDirs) resume(s DirsState, prefix string, f *keep.Files) error {
	for i, state := range s.Dirs {
		d, err := resumeDir(state, prefix+"."+strconv.Itoa(i), f)
		if err != nil {
			return fmt.Errorf("directory %s: %w", state.Path, err)
		}
		switch {
		case d == nil:
		case i == 0 && s.Now:
			p.now = d
		default:
			p.former = append(p.former, d)
		}
	}
	return nil
}

// resumeDir is nil for one that is not there any more, or not as it was made and not
// held either: it may be somebody else's.
func resumeDir(s DirState, name string, f *keep.Files) (*publicDir, error) {
	kept := f.Has(name)
	var held *os.File
	if kept {
		fd, err := f.Take(name)
		if err != nil {
			return nil, err
		}
		held = os.NewFile(uintptr(fd), s.Path)
	} else {
		var err error
		held, err = os.OpenFile(s.Path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return nil, nil //nolint:nilerr // it is gone, or another's
		}
	}
	made, err := held.Stat()
	if err != nil {
		held.Close() // only read from
		return nil, err
	}
	dev, inode := identity(made)
	same := made.IsDir() && dev == s.Dev && inode == s.Inode
	asMade := uint32(made.Mode()) == s.Mode && owner(made) == s.Owner
	if !same || !kept && !asMade {
		held.Close() // likewise
		if kept {
			return nil, errors.New("the descriptor leads to another one")
		}
		return nil, nil
	}
	d := &publicDir{path: s.Path, held: held, made: was{made, fs.FileMode(s.Mode), s.Owner}, names: make(map[string]bool)}
	for _, n := range s.Names {
		if n != "" && n != "." && n != ".." && !slices.Contains([]byte(n), '/') { // it will be removed from there
			d.names[n] = true
		}
	}
	// It is locked already where the descriptor was kept; otherwise cleaners by age must
	// be told again. That it cannot be locked is their affair.
	_ = unix.Flock(d.fd(), unix.LOCK_SH|unix.LOCK_NB)
	return d, nil
}

// drop lets go of them and removes nothing.
func (p *publicDirs) drop() {
	if p.now != nil {
		p.former = append(p.former, p.now)
	}
	for _, d := range p.former {
		d.held.Close() // nothing was written through it
	}
	p.now, p.former = nil, nil
}

// find is the directory with that path, and nil where there is none.
func (p *publicDirs) find(path string) *publicDir {
	for _, d := range append([]*publicDir{p.now}, p.former...) {
		if d != nil && d.path == path {
			return d
		}
	}
	return nil
}

func (h *einhornHub) keep(prefix string, f *keep.Files, s *HubState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Einhorn, s.EinhornNext, s.EinhornTold = h.dirs.keep(prefix, f), h.next, h.told
}

func (h *einhornHub) resume(s HubState, prefix string, f *keep.Files) error {
	h.next, h.told = s.EinhornNext, s.EinhornTold
	return h.dirs.resume(s.Einhorn, prefix, f)
}

func (h *nodeHub) keep(prefix string, f *keep.Files, s *HubState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Preload, s.NodeID = h.preload.dirs.keep(prefix, f), h.lastID
	s.NodeData, s.NodeTold = maps.Clone(h.data), slices.Sorted(maps.Keys(h.told))
}

// resume takes the preload's directory over as one of the past where the file in it is
// not this launcher's: workers that know its path have theirs, and others get another.
func (h *nodeHub) resume(s HubState, prefix string, f *keep.Files) error {
	h.lastID, h.data = s.NodeID, maps.Clone(s.NodeData)
	for _, what := range s.NodeTold {
		h.first(what)
	}
	if err := h.preload.dirs.resume(s.Preload, prefix, f); err != nil {
		return err
	}
	if d := h.preload.dirs.now; d != nil {
		text, err := os.ReadFile(d.relative(preloadName))
		if err == nil && string(text) != string(drainScript) {
			h.preload.dirs.now, h.preload.dirs.former = nil, append(h.preload.dirs.former, d)
		}
	}
	return nil
}
